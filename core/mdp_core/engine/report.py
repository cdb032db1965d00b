"""Collects what the page of a run shows: from its record, the store and its images. What is gone is named, never fatal."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from mdp_core import __version__
from mdp_core.data.images import Images
from mdp_core.data.storage import StoredInstances, StoredLabelMaps
from mdp_core.engine import report_tables as tables
from mdp_core.engine.coordinate import CURVE
from mdp_core.engine.curves import journal_points, losses_first, stored_points
from mdp_core.engine.evaluate import RESULT
from mdp_core.engine.jobs import read_records
from mdp_core.engine.pictures import scores_by_stage
from mdp_core.engine.plan import COMPONENTS
from mdp_core.engine.record import RunRecord, StepRecord
from mdp_core.engine.scores import recorded
from mdp_core.engine.showcase import CHOICE, FAILURES, Showcase, StageResult, Truth
from mdp_core.engine.store import Entry
from mdp_core.errors import MdpError
from mdp_core.evaluation.semantic import SemanticResult
from mdp_core.plugins.loader import PluginHost
from mdp_core.recipe.show import to_yaml
from mdp_core.report import page as p
from mdp_core.report.charts import line_chart
from mdp_core.stages.base import Context

MOST_CHARTS = 24
_INSTANCES, _LABEL_MAPS = ("prior", "clusterer", "detector"), ("refiner", "segmenter", "probe")

Progress = Callable[[int, int], None]
Named = Sequence[tuple[str, Mapping[str, Any]]]


def collect(record: RunRecord, host: PluginHost, progress: Progress = lambda done, total: None) -> p.Page:
    """Returns the page of a run, finished or not.

    Args:
        record: The run.
        host: The plugins; those of the run that are missing cost the page its pictures.
        progress: Told (done, total) images while they are ranked.
    """
    return _Collector(record, host, progress).page()


class _Collector:
    def __init__(self, record: RunRecord, host: PluginHost, progress: Progress) -> None:
        self.record, self.host, self.progress = record, host, progress
        self.missing: list[str] = []
        self.results = self._results()

    def page(self) -> p.Page:
        record = self.record
        found = recorded(self.results)
        scores = [row.result for row in found.components]
        titles = tables.titles(found.components)
        page = p.Page(record.name, record.id, record.status)
        page.description = str(record.resolved.get("description", ""))
        page.error = record.error or ""
        page.facts = self._facts()
        method = [i for i, row in enumerate(found.components) if row.protocol_name == found.components[0].protocol_name]
        page.figures = self._figures([titles[i] for i in method], [scores[i] for i in method])
        page.warnings = list(dict.fromkeys([*record.warnings, *(f"{s.id}: {w}" for s in record.steps for w in s.warnings)]))
        page.scores = tables.score_table(found.components, [c["stage"] for c in self.results.get("components", ())])
        page.protocol = tables.protocol(found.components)
        page.classes = tables.classes(scores)
        page.confusions = tables.confusions(titles, scores)
        page.localisation = tables.localisation(found)
        page.grids = tables.grids(found)
        page.legend = [p.Swatch(c.colour, c.name) for c in page.classes[1:] if c.pixels]
        self._pictures(page)
        page.curves = list(self._curves())
        page.steps = self._steps()
        page.sections = self._sections()
        page.overrides = record.overrides
        page.settings = to_yaml(record.resolved) if record.resolved else ""
        page.images = [(_ROLES.get(r, r), i["split"], i["count"]) for r, i in record.images.items()]
        page.bad_images = list(dict.fromkeys((b[0], i["split"], b[1]) for i in record.images.values() for b in i["bad"]))
        page.labels_used = self._labels_used(scores)
        page.facts_by_step = self._notes()
        page.environment = self._environment()
        page.command = shlex.join(_as_typed(record.environment.get("argv", ())))
        page.missing = self.missing
        page.made = f"Made by mdp {__version__} on {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}. This file is complete: it loads nothing."
        return page

    def _entry(self, step: StepRecord) -> Entry:
        return Entry(self.record.home / "store" / f"{step.kind}-{step.step}" / step.key, {})

    def _results(self) -> Mapping[str, Any]:
        """Returns the record's results; of a run that did not end, those of the evaluations that were done."""
        if self.record.results:
            return self.record.results
        found: dict[str, Any] = {}
        for step in self.record.steps:
            if step.kind != "evaluate" or step.status not in ("hit", "done"):
                continue
            try:
                content = json.loads((self._entry(step).result / RESULT).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                self.missing.append(f"{step.id}: its scores are no longer in the store.")
                continue
            if step.step in COMPONENTS:
                own = {"title": step.stage, "stage": step.stage, "protocol_name": step.step}
                found.setdefault("components", []).append({**own, **content})
            elif content is not None:
                found.setdefault(step.step, {})[step.stage] = content
        return found

    def _facts(self) -> list[tuple[str, str]]:
        record, git = self.record, self.record.environment.get("git")
        devices = sorted({s.notes["device"] for s in record.steps if "device" in s.notes})
        facts = [
            ("started", _when(record.started)),
            ("took", p.duration(record.seconds) if record.status != "running" else "still running"),
            ("seed", str(record.seed)),
            ("machine", f"{record.host}, {', '.join(devices) or 'device not recorded'}"),
            ("code", f"{git['commit'][:10]}{', with changes' if git['dirty'] else ''}" if git else "not a git checkout"),
            ("recipe", record.recipe),
        ]
        return facts + [(n, v) for n, v in (("part of sweep", record.sweep), ("repeats", record.from_run)) if v]

    def _figures(self, titles: Sequence[str], scores: Sequence[SemanticResult]) -> list[p.Figure]:
        figures = []
        if scores:
            best = max(range(len(scores)), key=lambda i: scores[i].miou)
            note = (
                titles[-1] if best == len(scores) - 1 else f"{titles[-1]}; best: {titles[best]}, {p.percent(scores[best].miou)}"
            )
            figures = [
                p.Figure("mIoU, %", p.percent(scores[-1].miou), note),
                p.Figure("pixel accuracy, %", p.percent(scores[-1].pixel_accuracy), titles[-1]),
            ]
        for stage, found in self.results.get("localisation", {}).items():
            figures.append(p.Figure("CorLoc, %", p.percent(found["corloc"]), stage))
        done = sum(1 for s in self.record.steps if s.status in ("hit", "done"))
        hits = sum(1 for s in self.record.steps if s.status == "hit")
        planned = len(self.record.planned) or len(self.record.steps)
        figures.append(p.Figure("steps", f"{done} of {planned}", f"{hits} were in the store" if hits else "all done anew"))
        figures.append(p.Figure("images", f"{sum({i['split']: i['count'] for i in self.record.images.values()}.values()):,}"))
        return figures

    def _pictures(self, page: p.Page) -> None:
        """Fills in what is drawn from images: examples, walk and gallery."""
        record, results = self.record, []
        images = self._images()
        components = scores_by_stage(self.results, record.outputs)
        for stage, step_id in record.outputs.items():
            step = record.step(step_id)
            if step is None or step.status not in ("hit", "done"):
                kind = record.resolved.get("pipeline", {}).get(stage, {}).get("kind", stage)
                if kind != "pretrainer":
                    page.stages = [*page.stages, p.StagePictures(stage, kind, "", problem="The run did not get this far.")]
            elif step.kind in (*_INSTANCES, *_LABEL_MAPS):
                found = self._stored(step, len(images) if images else None)
                if isinstance(found, str):
                    page.stages = [*page.stages, p.StagePictures(stage, step.kind, step.plugin, problem=found)]
                    self.missing.append(f"{stage}: {found}")
                else:
                    results.append(StageResult(stage, step.kind, step.plugin, found, components.get(stage)))
        if images is None or not results:
            return
        showcase = Showcase(images, self._truth, record.seed, self.progress)
        shown = {s.stage: s for s in [*page.stages, *showcase.stages(results)]}
        page.stages = [shown[stage] for stage in record.outputs if stage in shown]
        page.walk, page.choice = showcase.walk(results), CHOICE
        clustered = next((r for r in results if r.kind in _INSTANCES and not r.plain), None)
        page.gallery = showcase.gallery(clustered, self.results) if clustered else None
        self.missing += showcase.missing

    def _images(self) -> Images | None:
        """Returns the images that the final outputs are of, without scanning them again; also sets the ground truth."""
        data = dict(self.record.resolved.get("data", {}))
        self._truth: Truth | None = None
        try:
            dataset = self.host.create("dataset", str(data.pop("use", "")), data, Context())
            records = read_records(self.record.folder / f"images-{self.record.final_role}.json")
        except (*FAILURES, TypeError) as error:
            said = error.message if isinstance(error, MdpError) else str(error)
            self.missing.append(f"No pictures: the images of the run cannot be found ({said}).")
            return None
        if self.record.final_role == "eval" and self.record.resolved.get("evaluate"):
            self._truth = Truth(dataset.label_map, dataset.instances)
        return Images(records, dataset.read)

    def _stored(self, step: StepRecord, images: int | None) -> StoredInstances | StoredLabelMaps | str:
        """Returns a stage's output, or why there is none."""
        entry = self._entry(step)
        where = f"store/{step.kind}-{step.step}/{step.key}"
        if entry.manifest() is None:
            return f"Its result is no longer in the store ({where}). The same recipe run again makes it anew."
        try:
            if step.kind in _LABEL_MAPS:
                records = read_records(self.record.folder / f"images-{self.record.final_role}.json")
                return StoredLabelMaps(entry.label_maps([r.id for r in records]))
            found = StoredInstances(entry.part_files())
        except FAILURES as error:
            return f"Its result in the store is damaged ({where}: {error}). The same recipe run again makes it anew."
        if images is not None and len(found) != images:
            return f"Its result in the store ({where}) is of {len(found)} images, the run is of {images}."
        return found

    def _curves(self) -> Iterator[p.Curves]:
        journal = journal_points(self.record.folder)
        for step in self.record.steps:
            points = stored_points(self._entry(step).folder / CURVE) or journal.get(step.id, {})
            made = [
                line_chart(name, sorted(values.items()))
                for name, values in sorted(points.items(), key=losses_first)[:MOST_CHARTS]
            ]
            charts = tuple(c for c in made if c is not None)
            picture = None
            if step.kind == "pretrainer":
                picture = self._curve_picture(step)
            if charts or picture:
                yield p.Curves(step.id, step.plugin, charts, picture)

    def _curve_picture(self, step: StepRecord) -> p.Picture | None:
        for path in (self.record.folder / f"{step.stage}-curve.png", self._entry(step).result / "curve.png"):
            try:
                return p.embed_png(path, f"Curves of {step.id}, as its plugin drew them")
            except (OSError, SyntaxError, ValueError):
                continue
        return None

    def _steps(self) -> list[p.StepLine]:
        steps = {s.id: s for s in self.record.steps}
        longest = max((s.seconds for s in steps.values()), default=0.0) or 1.0
        lines = [p.StepLine(s.id, s.plugin, s.status, s.seconds, s.seconds / longest) for s in steps.values()]
        return [*lines, *(p.StepLine(i, "", "not done", None, 0.0) for i in self.record.planned if i not in steps)]

    def _sections(self) -> list[p.Section]:
        resolved = self.record.resolved
        data = dict(resolved.get("data", {}))
        sections = [tables.section(self.host, "data", "dataset", data)] if data else []
        for stage, settings in resolved.get("pipeline", {}).items():
            sections.append(tables.section(self.host, stage, str(settings.get("kind", stage)), dict(settings)))
        return sections

    def _labels_used(self, scores: Sequence[SemanticResult]) -> list[str]:
        used = [f"{stage}: {what}" for stage, what in self.record.labels_used.items()]
        return list(dict.fromkeys([*used, *(text for s in scores for text in s.protocol.ground_truth)]))

    def _notes(self) -> list[tuple[str, str, str]]:
        noted: dict[tuple[str, str], list[str]] = {}
        for step in self.record.steps:
            for name, value in step.notes.items():
                if name != "device":
                    noted.setdefault((name, value), []).append(step.id)
        lines = [(", ".join(steps), name, value) for (name, value), steps in noted.items()]
        made = self.record.results.get("weights", {})
        return lines + [(stage, "weights made", f"{w['file']} sha256:{w['sha256']}") for stage, w in made.items()]

    def _environment(self) -> list[tuple[str, str]]:
        known = self.record.environment
        facts = [
            (n, str(known[k]))
            for n, k in (("Python", "python"), ("platform", "platform"), ("processors", "cpus"))
            if k in known
        ]
        git = known.get("git")
        if git:
            facts.append(("git commit", f"{git['commit']}{' with uncommitted changes' if git['dirty'] else ''}"))
        fingerprints = {i["split"]: i["fingerprint"] for i in self.record.images.values()}
        facts += [(f"fingerprint of split {split}", fingerprint) for split, fingerprint in fingerprints.items()]
        return facts + [(name, str(version)) for name, version in known.get("libraries", {}).items()]


_ROLES = {"train": "learning, without labels", "eval": "evaluation"}


def _when(started: str) -> str:
    try:
        return f"{datetime.fromisoformat(started).astimezone():%d %B %Y, %H:%M %Z}"
    except ValueError:
        return started


def _as_typed(argv: Sequence[str]) -> list[str]:
    return ["mdp", *argv[1:]] if argv else []
