"""Runs a recipe: scan, plan, then each step a hit or a job, and the record of it all."""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mdp_core.engine.coordinate import Coordinator
from mdp_core.engine.jobs import Job, shard_size, write_records
from mdp_core.engine.journal import Journal
from mdp_core.engine.outputs import Outputs
from mdp_core.engine.plan import Plan, Role, Step
from mdp_core.engine.planner import make_plan
from mdp_core.engine.provenance import environment
from mdp_core.engine.record import RunRecord, StepRecord, mark_killed_runs, new_run_folder
from mdp_core.engine.scan import ImageSet, Scanner
from mdp_core.engine.store import Entry, Manifest, Store, disk_errors
from mdp_core.errors import DataError, MdpError, MdpWarning, ObserverWarning, PluginError, RecipeError
from mdp_core.plugins.hookspecs import RunInfo, RunOutcome, StepInfo, StepResult
from mdp_core.plugins.loader import Observers, PluginHost
from mdp_core.recipe.load import LoadedRecipe
from mdp_core.recipe.schema import Recipe
from mdp_core.settings import stage_of, weight_paths
from mdp_core.stages.base import Context
from mdp_core.stages.dataset import DatasetConfig
from mdp_core.stages.executor import Executor
from mdp_core.stages.pretrainer import BACKBONE

ScanProgress = Callable[[str, int, int], None]


def default_home() -> Path:
    """Returns MDP_HOME, or ``.mdp`` in the current folder."""
    return Path(os.environ.get("MDP_HOME") or ".mdp").expanduser().absolute()


@dataclass(frozen=True)
class RunOptions:
    """How to run, none of which changes a result.

    Attributes:
        home: MDP_HOME.
        inline: Do steps in this process (for a debugger) instead of in worker processes.
        until: Last stage to do.
        pretrain: A pretrainer whose weights are all that is wanted: only what they are made of is done.
        observers: Further observers, told before those of the recipe.
        track: Whether the recipe's observers (MLflow) are told at all.
        overrides: What was given with ``--set``, for the record.
        on_scan: Told (split, done, total) while images are opened for the first time.
        sweep: ``SWEEP-ID/NUMBER`` where a sweep makes this run, for the record.
        from_run: Id of the run that this one repeats, for the record.
        store: Folder whose ``store/`` takes the results, where that is not ``home``: a repetition in a store of its own.
    """

    home: Path
    inline: bool = False
    until: str | None = None
    pretrain: str | None = None
    observers: Sequence[object] = ()
    track: bool = True
    overrides: Sequence[str] = ()
    on_scan: ScanProgress = lambda split, done, total: None
    sweep: str | None = None
    from_run: str | None = None
    store: Path | None = None


@dataclass
class Session:
    """A recipe with its plugins, its images and its plan: what ``mdp plan`` shows and ``mdp run`` does."""

    loaded: LoadedRecipe
    host: PluginHost
    store: Store
    dataset: Any
    images: Mapping[Role, ImageSet]
    plan: Plan

    def entry(self, step: Step) -> Entry:
        """Returns the place of a step's result in the store."""
        return self.store.entry(step.kind, step.step, step.key, step.payload)

    def warnings(self) -> list[str]:
        """Returns what a person should know before the first step."""
        found = []
        for images in {i.split: i for i in self.images.values()}.values():
            if images.bad:
                shown = "; ".join(b.reason for b in images.bad[:3]) + ("; …" if len(images.bad) > 3 else "")
                total = len(images.bad) + len(images.records)
                found.append(f"{len(images.bad)} of {total} images of split {images.split!r} are skipped: {shown}")
        if self.loaded.recipe.evaluate and "eval" in self.images and self.images["eval"].truth_fingerprint is None:
            found.append(f"split {self.images['eval'].split!r} has no labels: nothing is evaluated")
        return found


def open_session(loaded: LoadedRecipe, host: PluginHost, options: RunOptions) -> Session:
    """Scans the images and plans the steps; writes nothing but what was learned of the images.

    Raises:
        MdpError: The images or the stages cannot be used.
    """
    recipe = loaded.recipe
    shard_size()  # a mistake in it is found before any work
    store = Store(options.store or options.home)
    config = recipe.data.config
    if not isinstance(config, DatasetConfig):
        raise PluginError(f"dataset:{recipe.data.use}: its settings are not a DatasetConfig")
    dataset = host.create("dataset", recipe.data.use, config.model_dump(mode="json"), Context())
    plugin = host.plugin("dataset", recipe.data.use)
    identity = f"{plugin.name} {plugin.identity} {type(config).cache_version}"
    images: dict[Role, ImageSet] = {}
    splits: list[tuple[Role, str | None]] = [
        ("train", config.train),
        ("support", config.support if options.pretrain is None else None),
        ("eval", config.eval if _predicts(recipe, options) else None),
    ]
    for role, split in splits:
        if split is not None:
            scanner = Scanner(store.root / "scans", partial(options.on_scan, split))
            known = {(record.id, record.path) for record in images["train"].records} if role == "support" else set()
            try:
                images[role] = scanner.scan(dataset, identity, split, without=known)
            except DataError as error:
                if role != "support" or "data.support" in error.message:
                    raise
                hint = f"{error.hint}; or do without supporting images: --set data.support=null"
                raise DataError(f"data.support: {error.message}", hint=hint) from error
    try:
        plan = make_plan(recipe, host, images, until=options.until, pretrain=options.pretrain)
    except RecipeError as error:
        raise RecipeError(f"{loaded.source}: {error.message}", hint=error.hint) from error
    return Session(loaded, host, store, dataset, images, plan)


def _predicts(recipe: Recipe, options: RunOptions) -> bool:
    """Whether anything is there to be evaluated: weights alone are not."""
    kinds = {section.kind for section in recipe.pipeline.values()}
    return bool(recipe.evaluate) and options.pretrain is None and kinds != {"pretrainer"}


def run(loaded: LoadedRecipe, host: PluginHost, options: RunOptions) -> RunRecord:
    """Runs a recipe to its end; see ``run_session``."""
    return run_session(open_session(loaded, host, options), options)


def run_session(session: Session, options: RunOptions) -> RunRecord:
    """Runs a planned recipe to its end.

    Raises:
        MdpError: A step cannot be done; the record says so too, and finished work is kept.
        KeyboardInterrupt: The person (or SIGTERM) ended it; the record says so.
    """
    return _Run(session, options).go()


@dataclass
class _StepListener:
    """Passes what a worker tells to the observers."""

    observers: Observers
    run: RunInfo
    step: StepInfo
    notes: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def progress(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        arguments = {"done": done, "total": total, "metrics": metrics}
        self.observers.call("mdp_step_progress", run=self.run, step=self.step, **arguments)

    def note(self, name: str, value: str) -> None:
        self.notes[name] = value

    def warn(self, message: str) -> None:
        self.warnings.append(message)
        warnings.warn(f"{self.step.id}: {message}", MdpWarning, stacklevel=1)


class _Run:
    """One run under way."""

    def __init__(self, session: Session, options: RunOptions) -> None:
        self.session, self.options = session, options
        self.plan, recipe = session.plan, session.loaded.recipe
        self.executor = self._executor()
        if any(session.entry(step).manifest() is None for step in self.plan.steps):
            self.executor.prepare()
        own = self._recipe_observers() if options.track else []
        self.observers = Observers([Journal(), *options.observers, *own])
        folder = new_run_folder(options.home, recipe.name)
        mark_killed_runs(options.home)
        self.record = RunRecord(
            folder, recipe.name, recipe.seed, session.loaded.source, list(options.overrides), session.loaded.resolved,
            {**environment(session.host, recipe, folder), "until": options.until, "pretrain": options.pretrain}, warnings=session.warnings(), labels_used=dict(self.plan.labels_used),
            planned=[s.id for s in self.plan.steps], places={s.id: f"{s.kind}-{s.step}/{s.key}" for s in self.plan.steps}, outputs=dict(self.plan.outputs), final_role=self.plan.final_role,
            plugin_files=[str(f) for f in session.host.files], sweep=options.sweep, from_run=options.from_run,
        )  # fmt: skip
        for role, images in session.images.items():
            bad = [[b.id, b.reason] for b in images.bad]
            self.record.images[role] = {
                "split": images.split, "count": len(images.records), "fingerprint": images.fingerprint,
                "truth": images.truth_fingerprint, "bad": bad,
            }  # fmt: skip
            with disk_errors(folder):
                write_records(folder / f"images-{role}.json", images.records)
        if "support" in session.images:
            with disk_errors(folder):
                both = session.images["train"].records + session.images["support"].records
                write_records(folder / "images-train-support.json", both)
        self.infos = {step.id: _info(step) for step in self.plan.steps}
        self.info = RunInfo(
            self.record.id, recipe.name, folder, options.home, recipe.seed, session.loaded.resolved,
            tuple(self.infos.values()), self.record.environment,
            {role: images.fingerprint for role, images in session.images.items()},
        )  # fmt: skip

    def _recipe_observers(self) -> list[object]:
        """Returns the observers of registry.yaml, with the recipe's settings where it has some, and the recipe's own."""
        host = self.session.host
        configs: dict[str, Any] = {}
        for name in host.registry.observers:
            try:
                configs[name] = host.config("observer", name)()
            except MdpError as error:
                warnings.warn(f"observer {name!r} of registry.yaml is off: {error.message}", ObserverWarning, stacklevel=1)
        configs |= {section.use: section.config for section in self.session.loaded.recipe.observers}
        return [host.factory("observer", name)(config) for name, config in configs.items()]

    def go(self) -> RunRecord:
        started = time.monotonic()
        outcome = RunOutcome("failed", 0.0)
        coordinator = Coordinator(self.executor)
        try:
            with self.session.store.registering():
                self.record.save()
            self.observers.call("mdp_run_started", run=self.info)
            for text in self.session.warnings():
                warnings.warn(text, MdpWarning, stacklevel=1)
            for step in self.plan.steps:
                self._do(step, coordinator)
            self.executor.close()
            with disk_errors(self.record.folder):
                outputs = Outputs(self.session, self.record.folder).write()
            self.record.results, self.record.metrics = outputs.results, dict(outputs.metrics)
            self.record.status = "finished"
            seconds = time.monotonic() - started
            outcome = RunOutcome("finished", seconds, outputs.metrics, outputs.files, outputs.model, weights=outputs.weights)
        except KeyboardInterrupt:
            self.record.status = "interrupted"
            outcome = RunOutcome("interrupted", time.monotonic() - started, error="interrupted")
            raise
        except BaseException as error:
            self.record.status, self.record.error = "failed", str(error)
            outcome = RunOutcome("failed", time.monotonic() - started, error=str(error))
            raise
        finally:
            self.executor.close()
            self.record.seconds = round(time.monotonic() - started, 2)
            self._save(quietly=outcome.status != "finished")
            self.observers.call("mdp_run_finished", run=self.info, outcome=outcome)
        return self.record

    def _save(self, *, quietly: bool) -> None:
        """Saves the record; where a full disk ended the run, that error matters more than this one."""
        try:
            self.record.save()
        except MdpError:
            if not quietly:
                raise

    def _executor(self) -> Executor[Any]:
        """Returns the executor that the recipe names, else the one of registry.yaml."""
        if self.options.inline:
            from mdp_core.executors.inline import InlineExecutor
            from mdp_core.executors.settings import SerialConfig

            return InlineExecutor(SerialConfig())
        host, section = self.session.host, self.session.loaded.recipe.executor
        use = section.use if section else host.default("executor") or "serial"
        config = section.config if section else host.config("executor", use)()
        made: Executor[Any] = host.factory("executor", use)(config)
        return made

    def _do(self, step: Step, coordinator: Coordinator) -> None:
        entry, info = self.session.entry(step), self.infos[step.id]
        manifest = entry.manifest()
        if manifest is not None:
            damage = entry.damage()
            if not damage:
                self._note(step, StepResult("hit", manifest.seconds, manifest.notes, tuple(manifest.warnings)), manifest)
                return
            message = f"{step.id}: the stored result is damaged ({', '.join(damage[:3])}); it is made anew"
            self.record.warnings.append(message)
            warnings.warn(message, MdpWarning, stacklevel=1)
        listener = _StepListener(self.observers, self.info, info)
        self.observers.call("mdp_step_started", run=self.info, step=info)
        started = time.monotonic()
        try:
            with disk_errors(self.record.folder):
                worked = coordinator.complete(
                    self._job(step, entry), entry, self._count(step),
                    self.record.folder / "logs" / f"{step.stage}.log", listener, distributed=self._distributed(step),
                )  # fmt: skip
        except BaseException as error:
            status: Any = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            self._note(step, StepResult(status, time.monotonic() - started, listener.notes, tuple(listener.warnings)))
            raise
        manifest = entry.manifest()
        if not worked and manifest is not None:
            listener.notes = dict(manifest.notes)
        status = "done" if worked else "hit"
        result = StepResult(status, time.monotonic() - started, listener.notes, tuple(listener.warnings))
        self._note(step, result, manifest)

    def _count(self, step: Step) -> int:
        """Returns how many images a step reads."""
        images = self.session.images
        return len(images[step.role].records) + (len(images["support"].records) if step.supported else 0)

    def _distributed(self, step: Step) -> bool:
        section = self.session.loaded.recipe.pipeline.get(step.stage)
        return section is not None and step.kind == section.kind and step.step in type(section.config).distributed_steps

    def _note(self, step: Step, result: StepResult, manifest: Manifest | None = None) -> None:
        self.record.steps.append(
            StepRecord(
                step.id, step.stage, step.kind, step.step, step.plugin, step.role, step.key, result.status,
                round(result.seconds, 3), dict(result.notes), list(result.warnings),
                *((manifest.images, manifest.peak_memory) if manifest else ()),
            )
        )  # fmt: skip
        if result.status != "hit":  # hits are told with the next step that is done, or at the end: each save waits for the disk
            self._save(quietly=result.status in ("failed", "interrupted"))
        self.observers.call("mdp_step_finished", run=self.info, step=self.infos[step.id], result=result)

    def _job(self, step: Step, entry: Entry) -> Job:
        session, recipe = self.session, self.session.loaded.recipe
        config = recipe.data.config.model_dump(mode="json")
        behind = self.plan.stages_behind(step.id)
        labels_used = {stage: what for stage, what in self.plan.labels_used.items() if stage in behind}
        settings, weights = self._settings(step)
        inputs = {slot: session.entry(session.plan.step(name)) for slot, name in step.inputs.items()}
        return Job(
            id=step.id,
            stage=step.stage,
            kind=step.kind,
            step=step.step,
            plugin=step.plugin,
            settings=settings,
            entry=str(entry.folder),
            images=str(self.record.folder / f"images-{step.role}{'-support' if step.supported else ''}.json"),
            dataset=(recipe.data.use, config),
            inputs={slot: str(folder.folder) for slot, folder in inputs.items()},
            clusters=max((m.clusters for e in inputs.values() if (m := e.manifest()) is not None), default=0),
            seed=step.seed,
            device=recipe.device,
            plugin_files=tuple(str(f) for f in session.host.files),
            shard_size=shard_size(),
            facts={**step.facts, "labels_used": labels_used} if step.kind == "evaluate" else {},
            weights=weights,
            time_limit=recipe.pipeline[step.stage].time_limit if step.stage in recipe.pipeline else None,
        )

    def _settings(self, step: Step) -> tuple[Mapping[str, Any], dict[str, str]]:
        """Returns a step's settings with a file for each ``stage:NAME``, and what the recipe calls these files."""
        if step.kind == "evaluate":
            return step.settings, {}
        settings, names = copy.deepcopy(dict(step.settings)), {}
        for path, ref in weight_paths(self.session.loaded.recipe.pipeline[step.stage].config):
            training = self.plan.weights.get(stage_of(ref) or "")
            if training is not None:
                file = f"file:{self.session.entry(self.plan.step(training)).result / BACKBONE}"
                names[file] = ref
                place: Any = settings
                for part in path[:-1]:
                    place = place[part]
                place[path[-1]] = file
        return settings, names


def _info(step: Step) -> StepInfo:
    unit = "iterations" if step.step == "fit" and step.kind != "clusterer" else "images"
    return StepInfo(step.id, step.stage, step.step, step.plugin, step.key, unit)
