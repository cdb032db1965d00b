"""The plan: from a recipe to its steps, type-checked, each with the key of its result. Imports no plugin's method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mdp_core.engine.keys import FORMAT, digest
from mdp_core.engine.scan import ImageSet
from mdp_core.engine.supervision import labels_behind
from mdp_core.errors import RecipeError
from mdp_core.plugins.loader import PluginHost
from mdp_core.recipe.schema import Recipe, StageSection
from mdp_core.settings import step_settings

Product = Literal["weights", "instances", "embeddings", "clusters", "model", "label-maps", "scores"]
Role = Literal["train", "eval"]

STEPS: Mapping[str, tuple[str, ...]] = {
    "pretrainer": ("fit",),
    "prior": ("mine",),
    "clusterer": ("embed", "fit", "assign"),
    "detector": ("fit", "predict"),
    "refiner": ("refine",),
    "segmenter": ("fit", "predict"),
}
"""The steps of each stage, in order."""

EVALUATION_VERSION = 1
"""Raised when evaluation gives other numbers for the same predictions."""


@dataclass(frozen=True)
class Step:
    """One step of a plan.

    Attributes:
        id: Unique in the plan: ``prior.mine[train]``, ``detector.fit`` …
        kind: Stage kind, or ``evaluate``.
        plugin: Name of the plugin, or of the evaluation protocol.
        role: Role of the images that it reads.
        inputs: Slot → id of the step that fills it; ``weights:STAGE`` where a setting of this step says ``stage:STAGE``.
        settings: All settings of the plugin, JSON-ready.
        payload: What the key is made of.
    """

    id: str
    stage: str
    kind: str
    step: str
    plugin: str
    role: Role
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]
    payload: Mapping[str, Any]
    produces: Product
    seed: int = 0

    @property
    def key(self) -> str:
        """The content address of the result."""
        return digest(self.payload)


@dataclass(frozen=True)
class Row:
    """One row of the component table: the stages it stands for, and the step with its numbers."""

    title: str
    stage: str
    step: str


@dataclass(frozen=True)
class Plan:
    """All steps of a run, in an order in which they can be done.

    Attributes:
        rows: Component table: evaluations of label maps, in the order of the pipeline.
        localisation: Ids of the evaluations of class-agnostic masks.
        outputs: Stage id → id of the step with its final output on the images that people want to see.
        final_role: The role of those images.
        weights: Pretrainer's stage id → id of its training.
    """

    steps: tuple[Step, ...]
    rows: tuple[Row, ...]
    localisation: tuple[str, ...]
    outputs: Mapping[str, str]
    final_role: Role
    labels_used: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)

    def step(self, step_id: str) -> Step:
        """Returns the step of an id."""
        return next(s for s in self.steps if s.id == step_id)


Made = Literal["weights", "masks", "clustered masks", "label maps"]


@dataclass(frozen=True)
class _Output:
    """What a stage makes, and how to get the step that makes it for a role."""

    stage: str
    kind: str
    product: Made
    chain: tuple[str, ...]
    step: Callable[[Role], Step]


class _Planner:
    def __init__(self, recipe: Recipe, host: PluginHost, images: Mapping[Role, ImageSet]) -> None:
        self.recipe = recipe
        self.host = host
        self.images = images
        self.steps: dict[str, Step] = {}
        self.by_key: dict[str, Step] = {}
        self.outputs: dict[str, _Output] = {}

    def add(
        self, stage: str, section: StageSection, step: str, role: Role, inputs: Mapping[str, Step], produces: Product
    ) -> Step:
        """Adds a step unless it is there; two roles with the same images share their steps."""
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
            "settings": step_settings(config, step, STEPS[section.kind], trained),
            "images": self.images[role].fingerprint,
            "inputs": {slot: source.key for slot, source in inputs.items()},
        }
        seeded = step in type(config).seeded_steps
        if seeded:
            payload["seed"] = self.recipe.seed
        settings = config.model_dump(mode="json")
        ids = {slot: source.id for slot, source in sources.items()}
        seed = self.recipe.seed if seeded else 0
        return self._keep(Step(name, stage, section.kind, step, plugin.name, role, ids, settings, payload, produces, seed))

    def evaluate(self, protocol: str, output: _Output) -> Step:
        """Adds the evaluation of a stage's output on the eval images: the one place where ground truth is read."""
        source = output.step("eval")
        payload = {
            "format": FORMAT,
            "kind": "evaluate",
            "step": protocol,
            "version": EVALUATION_VERSION,
            "images": self.images["eval"].fingerprint,
            "truth": self.images["eval"].truth_fingerprint,
            "inputs": {"predictions": source.key},
        }
        name = f"{output.stage}.{protocol}[eval]"
        inputs = {"predictions": source.id}
        return self._keep(Step(name, output.stage, "evaluate", protocol, protocol, "eval", inputs, {}, payload, "scores"))

    def _keep(self, step: Step) -> Step:
        same = self.by_key.get(step.key)
        self.steps[step.id] = same or step
        self.by_key.setdefault(step.key, step)
        return self.steps[step.id]

    def output(self, stage: str, section: StageSection, source: _Output | None) -> _Output:
        """Returns what a stage makes of its input."""
        add, kind = self.add, section.kind

        def given(role: Role) -> Step:
            if source is None:
                raise ValueError(f"{stage} has no input")
            return source.step(role)

        def pretrained(_: Role) -> Step:
            return add(stage, section, "fit", "train", {"instances": given("train")} if source else {}, "weights")

        def fitted(produces: Product) -> Step:
            if kind == "clusterer":
                return add(stage, section, "fit", "train", {"embeddings": embedded("train")}, produces)
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
            return add(stage, section, "predict", role, {"model": fitted("model")}, product)

        def refined(role: Role) -> Step:
            return add(stage, section, "refine", role, {"predictions": given(role)}, "label-maps")

        chain = (*(source.chain if source and source.product != "label maps" else ()), stage)
        if kind == "detector" and source:
            chain = (stage,)
        made: dict[str, tuple[Made, Callable[[Role], Step]]] = {
            "pretrainer": ("weights", pretrained),
            "prior": ("masks", mined),
            "clusterer": ("clustered masks", assigned),
            "detector": ("clustered masks", predicted),
            "refiner": ("label maps", refined),
            "segmenter": ("label maps", predicted),
        }
        product, step = made[kind]
        return _Output(stage, kind, product, chain, step)


_NEEDS: Mapping[str, tuple[str, ...]] = {
    "pretrainer": ("masks",),
    "prior": (),
    "clusterer": ("masks", "clustered masks"),
    "detector": ("clustered masks",),
    "segmenter": ("label maps",),
}
_ACCEPTS = {"instances": "clustered masks", "label-maps": "label maps"}
_REMEDY = {
    "masks": "put a prior before it",
    "clustered masks": "put a clusterer before it",
    "label maps": "put a refiner before it",
}
_OPTIONAL = ("pretrainer",)
"""Kinds that do without an input where nobody makes it."""


def _needs(section: StageSection) -> tuple[str, ...]:
    if section.kind == "refiner":
        return tuple(_ACCEPTS[a] for a in getattr(type(section.config), "accepts", ("instances",)))
    return _NEEDS[section.kind]


def _input(stage: str, section: StageSection, outputs: Mapping[str, _Output]) -> _Output | None:
    """Finds the stage that feeds ``stage``: the one it names, or the last before it that makes what it needs (or could use).

    Raises:
        RecipeError: Nobody makes it; the message names both sides.
    """
    needs = _needs(section)
    if not needs:
        return None
    what = " or ".join(needs)
    if section.input is not None:
        if section.input not in outputs:
            there = ", ".join(outputs) or "none"
            raise RecipeError(f"pipeline.{stage}.input: no stage {section.input!r} before {stage!r} (there are: {there})")
        chosen = outputs[section.input]
        if chosen.product not in needs:
            raise RecipeError(f"pipeline.{stage} needs {what}, but its input {section.input!r} makes {chosen.product}")
        return chosen
    for output in reversed(list(outputs.values())):
        if output.product in needs:
            return output
    if section.kind in _OPTIONAL:
        return None
    names = {o.stage: o.stage if o.stage == o.kind else f"{o.stage} ({o.kind})" for o in outputs.values()}
    made = "; ".join(f"{names[o.stage]} makes {o.product}" for o in outputs.values()) or "it is the first stage"
    raise RecipeError(
        f"pipeline.{stage}: a {section.kind} needs {what}, and no stage before it makes any ({made})", hint=_REMEDY[needs[0]]
    )


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
    rows: list[Row] = []
    localisation: list[str] = []
    if "eval" in images and images["eval"].truth_fingerprint is not None and recipe.evaluate:
        rows = [
            Row(" + ".join(o.chain), o.stage, planner.evaluate("clustering", o).id)
            for o in _readable_as_label_maps(recipe, outputs)
        ]
        localisation = [planner.evaluate("localisation", o).id for o in outputs.values() if o.kind == "prior"]
    final = {stage: output.step(final_role).id for stage, output in outputs.items()}
    steps = {s.id: s for s in planner.steps.values()}
    if pretrain is not None:
        steps = _behind(final[pretrain], steps)
        final = {stage: step for stage, step in final.items() if step in steps}
    used: dict[str, str] = {}
    for stage in final:
        if labels := labels_behind(recipe.pipeline[stage].config, used):
            used[stage] = labels
    weights = {stage: step for stage, step in final.items() if outputs[stage].product == "weights"}
    ordered = _ordered(steps.values(), list(outputs))
    return Plan(tuple(ordered), tuple(rows), tuple(localisation), final, final_role, used, weights)


def _add_outputs(planner: _Planner, recipe: Recipe, until: str | None) -> None:
    if until is not None and until not in recipe.pipeline:
        raise RecipeError(f"--until {until}: no such stage (there are: {', '.join(recipe.pipeline)})")
    for stage, section in recipe.pipeline.items():
        planner.outputs[stage] = planner.output(stage, section, _input(stage, section, planner.outputs))
        if stage == until:
            break


def _behind(goal: str, steps: Mapping[str, Step]) -> dict[str, Step]:
    """Returns a step and all that it is made of, by id."""
    found: dict[str, Step] = {}
    pending = [goal]
    while pending:
        step = steps[pending.pop()]
        found[step.id] = step
        pending += step.inputs.values()
    return found


def _readable_as_label_maps(recipe: Recipe, outputs: Mapping[str, _Output]) -> Iterable[_Output]:
    """Yields the outputs that make rows: label maps, and clustered masks unless a detector's refiner speaks for them."""
    refined = {o.chain[-2] for o in outputs.values() if o.kind == "refiner" and len(o.chain) > 1}
    for output in outputs.values():
        if output.product == "label maps" or (
            output.product == "clustered masks" and not (output.kind == "detector" and output.stage in refined)
        ):
            yield output


def _ordered(steps: Iterable[Step], stages: Sequence[str]) -> list[Step]:
    """Orders steps by stage, then step, then role, so that one process serves a stage from its first step to its last."""

    def place(step: Step) -> tuple[int, int, int]:
        order = STEPS.get(step.kind, ())
        return (
            stages.index(step.stage),
            order.index(step.step) if step.step in order else len(order) + 9,
            int(step.role == "eval"),
        )

    return sorted(steps, key=place)
