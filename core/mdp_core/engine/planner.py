"""From a recipe to its plan: the steps of its stages, type-checked, each with the key of its result. Imports no plugin's method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mdp_core.engine.jobs import SUPPORT
from mdp_core.engine.keys import FORMAT
from mdp_core.engine.plan import EVALUATION_VERSION, LAST, STEPS, Plan, Product, Role, Row, Step, behind
from mdp_core.engine.scan import ImageSet
from mdp_core.engine.stage_outputs import Made, StageOutput, input_of
from mdp_core.engine.supervision import labels_behind
from mdp_core.errors import RecipeError
from mdp_core.plugins.loader import PluginHost
from mdp_core.recipe.schema import Recipe, StageSection
from mdp_core.settings import step_settings


def make_plan(
    recipe: Recipe,
    host: PluginHost,
    images: Mapping[Role, ImageSet],
    *,
    until: str | None = None,
    pretrain: str | None = None,
) -> Plan:
    """Plans a recipe.

    Args:
        recipe: The recipe, as ``load_recipe`` checked it.
        host: The plugins.
        images: The scanned images; with role ``eval`` only where results are to be evaluated.
        until: Last stage to do.
        pretrain: A pretrainer whose weights are all that is wanted: only what they are made of is planned.

    Raises:
        RecipeError: The stages do not fit together, or ``until`` names no stage.
    """
    planner = _Planner(recipe, host, images)
    _add_outputs(planner, recipe, until if pretrain is None else pretrain)
    outputs = planner.outputs
    final_role: Role = "eval" if "eval" in images else "train"
    evaluations: list[Row] = []
    if "eval" in images and images["eval"].truth_fingerprint is not None and recipe.evaluate:
        evaluations = list(_evaluations(planner, recipe, outputs))
    final = {stage: output.step(final_role).id for stage, output in outputs.items()}
    steps = {s.id: s for s in planner.steps.values()}
    if pretrain is not None:
        steps = behind(final[pretrain], steps)
        final = {stage: step for stage, step in final.items() if step in steps}
    used: dict[str, str] = {}
    for stage in final:
        if labels := labels_behind(recipe.pipeline[stage].config, used):
            used[stage] = labels
    weights = {stage: step for stage, step in final.items() if outputs[stage].product == "weights"}
    ordered = _ordered(steps.values(), list(outputs))
    probes = frozenset(stage for stage in final if outputs[stage].product == "class maps")
    return Plan(tuple(ordered), tuple(evaluations), final, final_role, used, weights, probes)


def _add_outputs(planner: _Planner, recipe: Recipe, until: str | None) -> None:
    if until is not None and until not in recipe.pipeline:
        raise RecipeError(f"--until {until}: no such stage (there are: {', '.join(recipe.pipeline)})")
    for stage, section in recipe.pipeline.items():
        planner.outputs[stage] = planner.output(stage, section, input_of(stage, section, planner.outputs))
        if stage == until:
            break


class _Planner:
    def __init__(self, recipe: Recipe, host: PluginHost, images: Mapping[Role, ImageSet]) -> None:
        self.recipe = recipe
        self.host = host
        self.images = images
        self.steps: dict[str, Step] = {}
        self.by_key: dict[str, Step] = {}
        self.outputs: dict[str, StageOutput] = {}

    def add(
        self,
        stage: str,
        section: StageSection,
        step: str,
        role: Role,
        inputs: Mapping[str, Step],
        produces: Product,
        *,
        settings_of: str | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> Step:
        """Adds a step unless it is there; two roles with the same images share their steps.

        Args:
            stage: Id of its stage.
            section: The stage in the recipe.
            step: Name of the step.
            role: Which images it reads.
            inputs: Slot → the step that fills it.
            produces: What it makes.
            settings_of: The step whose settings it depends on, where that is another one.
            more: What else its key is made of.
        """
        name = f"{stage}.{step}" if step == "fit" else f"{stage}.{step}[{role}]"
        if name in self.steps:
            return self.steps[name]
        plugin = self.host.plugin(section.kind, section.use)
        config = section.config
        sources = dict(inputs)

        def trained(pretrainer: str) -> str:
            sources[f"weights:{pretrainer}"] = self.outputs[pretrainer].step("train")
            return sources[f"weights:{pretrainer}"].key

        payload: dict[str, Any] = {
            "format": FORMAT,
            "kind": section.kind,
            "step": step,
            "plugin": {"name": plugin.name, "code": plugin.identity, "version": type(config).cache_version},
            "settings": step_settings(config, settings_of or step, STEPS[section.kind], trained),
            "images": self.images[role].fingerprint,
            "inputs": {slot: source.key for slot, source in inputs.items()},
            **(more or {}),
        }
        seeded = step in type(config).seeded_steps
        if seeded:
            payload["seed"] = self.recipe.seed
        settings = config.model_dump(mode="json")
        ids = {slot: source.id for slot, source in sources.items()}
        seed = self.recipe.seed if seeded else 0
        return self._keep(Step(name, stage, section.kind, step, plugin.name, role, ids, settings, payload, produces, seed))

    def evaluate(self, protocol: str, output: StageOutput, role: Role = "eval", **others: Step) -> Step:
        """Adds an evaluation of a stage's output: the one place, but for probes, where ground truth is read.

        Args:
            protocol: Its name.
            output: What is evaluated.
            role: On which images.
            others: Further inputs.

        Raises:
            RecipeError: These images have no ground truth.
        """
        images = self.images[role]
        if images.truth_fingerprint is None:
            raise RecipeError(
                f"evaluate: {protocol} reads the ground truth of split {images.split!r}, which has none",
                hint="leave it out of `evaluate:`, or take a dataset with labels",
            )
        inputs = {"predictions": output.step(role), **others}
        facts = {"split": images.split, "seed": self.recipe.seed}
        stated = self._stated(inputs.values())
        payload = {
            "format": FORMAT,
            "kind": "evaluate",
            "step": protocol,
            "version": EVALUATION_VERSION,
            "images": images.fingerprint,
            "truth": images.truth_fingerprint,
            "facts": facts,
            "inputs": {slot: source.key for slot, source in inputs.items()},
            **({"labels": stated} if stated else {}),
        }
        name = f"{output.stage}.{protocol}[{role}]"
        ids = {slot: source.id for slot, source in inputs.items()}
        told = {**facts, "dense_crf": output.dense_crf, "checkpoint": output.checkpoint}
        return self._keep(
            Step(name, output.stage, "evaluate", protocol, protocol, role, ids, {}, payload, "scores", facts=told)
        )

    def _stated(self, inputs: Iterable[Step]) -> dict[str, str]:
        """Returns what the stages behind an evaluation say of labels: it may be a setting that changes no mask, but what a result repeats."""
        stages = {step.stage for source in inputs for step in behind(source.id, self.steps).values()}
        said = {stage: self.recipe.pipeline[stage].config.labels_used() for stage in sorted(stages)}
        return {stage: words for stage, words in said.items() if words is not None}

    def _keep(self, step: Step) -> Step:
        same = self.by_key.get(step.key)
        self.steps[step.id] = same or step
        self.by_key.setdefault(step.key, step)
        return self.steps[step.id]

    def output(self, stage: str, section: StageSection, source: StageOutput | None) -> StageOutput:
        """Returns what a stage makes of its input."""
        add, kind = self.add, section.kind
        by_labels = getattr(section.config, "checkpoint", LAST) != LAST

        def given(role: Role) -> Step:
            if source is None:
                raise ValueError(f"{stage} has no input")
            return source.step(role)

        def pretrained(_: Role) -> Step:
            return add(stage, section, "fit", "train", {"instances": given("train")} if source else {}, "weights")

        def supported(slot: str, step: Callable[[Role], Step]) -> dict[str, Step]:
            """Returns the inputs of a training: of the training split and, where there are some, of the images that support it."""
            more = {slot + SUPPORT: step("support")} if "support" in self.images and section.support else {}
            return {slot: step("train"), **more}

        def fitted(produces: Product) -> Step:
            if kind == "clusterer":
                return add(stage, section, "fit", "train", supported("embeddings", embedded), produces)
            if kind == "detector":
                return add(stage, section, "fit", "train", supported("labels", given), produces)
            return add(stage, section, "fit", "train", {"labels": given("train")}, produces)

        def embedded(role: Role) -> Step:
            return add(stage, section, "embed", role, {"instances": given(role)}, "embeddings")

        def mined(role: Role) -> Step:
            return add(stage, section, "mine", role, {}, "instances")

        def assigned(role: Role) -> Step:
            inputs = {"clusters": fitted("clusters"), "instances": given(role), "embeddings": embedded(role)}
            return add(stage, section, "assign", role, inputs, "instances")

        def predicted(role: Role) -> Step:
            product: Product = "instances" if kind == "detector" else "label-maps"
            model = fitted("model")
            selected = {"selected": self.select(stage, section, model)} if by_labels else {}
            return add(stage, section, "predict", role, {"model": model, **selected}, product)

        def refined(role: Role) -> Step:
            return add(stage, section, "refine", role, {"predictions": given(role)}, "label-maps")

        def probed(role: Role) -> Step:
            network = {}
            if source is not None:
                prediction = source.step("eval" if "eval" in self.images else "train")
                network = {slot: self.steps[name] for slot, name in prediction.inputs.items()}
            self.require_labels(stage, section, "train")
            truth = {"truth": self.images["train"].truth_fingerprint}
            model = add(stage, section, "fit", "train", network, "model", more=truth)
            return add(stage, section, "predict", role, {"probe": model, **network}, "label-maps")

        made: dict[str, tuple[Made, Callable[[Role], Step]]] = {
            "pretrainer": ("weights", pretrained),
            "prior": ("masks", mined),
            "clusterer": ("clustered masks", assigned),
            "detector": ("clustered masks", predicted),
            "refiner": ("class maps" if source and source.product == "class maps" else "label maps", refined),
            "segmenter": ("label maps", predicted),
            "probe": ("class maps", probed),
        }
        product, step = made[kind]
        own = {"segmenter", "detector", "prior", "pretrainer"}
        chain = (stage,) if kind in own or source is None else (*source.chain, stage)
        checkpoint = "best of its snapshots" if by_labels else LAST
        dense_crf = bool(getattr(type(section.config), "dense_crf", False))
        if source is not None and kind in ("refiner", "probe"):
            checkpoint = source.checkpoint
            dense_crf |= kind == "refiner" and source.dense_crf
        probabilities = bool(getattr(section.config, "keeps_probabilities", False))
        return StageOutput(stage, kind, product, chain, step, source, probabilities, dense_crf, checkpoint)

    def require_labels(self, stage: str, section: StageSection, role: Role) -> None:
        """Checks that a stage which learns or chooses by labels has some.

        Raises:
            RecipeError: It has none.
        """
        if role not in self.images or self.images[role].truth_fingerprint is None:
            where = (
                f"split {self.images[role].split!r}, which has none"
                if role in self.images
                else "the eval split, and there is none"
            )
            raise RecipeError(
                f"pipeline.{stage}: {section.kind} {section.use!r} needs the labels of {where}",
                hint="take a dataset with labels, or leave this out",
            )

    def select(self, stage: str, section: StageSection, model: Step) -> Step:
        """Adds the choice of a segmenter's checkpoint by the labels of the eval split, as the authors' code chooses.

        Raises:
            RecipeError: There are no labels, or no checkpoints to choose from.
        """
        self.require_labels(stage, section, "eval")
        if not getattr(section.config, "keeps_snapshots", False):
            raise RecipeError(
                f"pipeline.{stage}.checkpoint: there is nothing to choose from, as the training keeps no snapshots",
                hint="see the segmenter's setting for snapshots (`mdp plugins show`)",
            )
        more = {"truth": self.images["eval"].truth_fingerprint, "version": EVALUATION_VERSION}
        return self.add(stage, section, "select", "eval", {"model": model}, "scores", settings_of="predict", more=more)


def _evaluations(planner: _Planner, recipe: Recipe, outputs: Mapping[str, StageOutput]) -> Iterator[Row]:
    """Yields the evaluations that a recipe asks for, stage by stage; priors are always told where their masks lie.

    A detector's masks are read as label maps through its refiner, where it has one.
    """
    refined = {o.source.stage for o in outputs.values() if o.kind == "refiner" and o.source is not None}
    clustered = {o.source.stage for o in outputs.values() if o.kind == "clusterer" and o.source is not None}

    def row(protocol: str, output: StageOutput, role: Role = "eval", **others: Step) -> Row:
        return Row(" + ".join(output.chain), output.stage, planner.evaluate(protocol, output, role, **others).id, protocol)

    def objects(protocol: str, output: StageOutput) -> dict[str, Step]:
        """Returns the matching that a protocol takes, made on objects of the training split."""
        clusterer = output.clusterer()
        if protocol.endswith("-objects") and clusterer is not None:
            return {"objects": planner.evaluate("clusters", clusterer, "train")}
        return {}

    wanted = recipe.evaluate
    for output in outputs.values():
        masks = output.product in ("masks", "clustered masks")
        if output.kind == "prior" or (masks and output.kind == "detector" and "localisation" in wanted):
            yield row("localisation", output)
        if output.kind == "clusterer" and "clusters" in wanted:
            yield row("clusters", output, "train")
        if output.product == "class maps":
            yield row("probe", output)
        elif output.product not in {"weights", "masks"} and (output.kind != "detector" or output.stage not in refined):
            for protocol in (p for p in wanted if p.startswith("clustering")):
                yield row(protocol, output, "eval", **objects(protocol, output))
        if masks and output.stage not in clustered:
            for protocol in (p for p in wanted if p.startswith("instances")):
                yield row(protocol, output, "eval", **objects(protocol, output))


def _ordered(steps: Iterable[Step], stages: Sequence[str]) -> list[Step]:
    """Orders steps by stage, then step, then role, so that one process serves a stage from its first step to its last."""

    def place(step: Step) -> tuple[int, int, int]:
        order = STEPS.get(step.kind, ())
        return (
            stages.index(step.stage),
            order.index(step.step) if step.step in order else len(order) + 9,
            ("train", "support", "eval").index(step.role),
        )

    return sorted(steps, key=place)
