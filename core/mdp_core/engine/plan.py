"""The plan of a run: its steps, each with the key of its result, and what is evaluated. ``planner.py`` makes it from a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mdp_core.engine.jobs import SUPPORT
from mdp_core.engine.keys import digest

Product = Literal["weights", "instances", "embeddings", "clusters", "model", "label-maps", "scores"]
Role = Literal["train", "eval", "support"]

STEPS: Mapping[str, tuple[str, ...]] = {
    "pretrainer": ("fit",),
    "prior": ("mine",),
    "clusterer": ("embed", "fit", "assign"),
    "detector": ("fit", "predict"),
    "refiner": ("refine",),
    "segmenter": ("fit", "select", "predict"),
    "probe": ("fit", "predict"),
}
"""The steps of each stage, in order; ``select`` only where labels choose the checkpoint."""

EVALUATION_VERSION = 2
"""Raised when evaluation gives other numbers for the same predictions."""

COMPONENTS = ("clustering", "clustering-objects", "clustering-majority", "probe")
"""Protocols that score label maps: the component table. ``probe`` is that of a probe's, which hold true classes."""
LAST = "last"


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
        facts: What an evaluation writes down beside its scores.
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
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The content address of the result."""
        return digest(self.payload)

    @property
    def supported(self) -> bool:
        """Whether it reads the images of ``data.support`` after those of its role."""
        return any(slot.endswith(SUPPORT) for slot in self.inputs)


@dataclass(frozen=True)
class Row:
    """One evaluation: the stages it stands for, the protocol, and the step with its numbers."""

    title: str
    stage: str
    step: str
    protocol: str = "clustering"


@dataclass(frozen=True)
class Plan:
    """All steps of a run, in an order in which they can be done.

    Attributes:
        evaluations: All evaluations, in the order of the pipeline.
        outputs: Stage id → id of the step with its final output on the images that people want to see.
        final_role: The role of those images.
        weights: Pretrainer's stage id → id of its training.
        probes: Stages whose label maps hold true classes: measurements, no results of the method.
    """

    steps: tuple[Step, ...]
    evaluations: tuple[Row, ...]
    outputs: Mapping[str, str]
    final_role: Role
    labels_used: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    probes: frozenset[str] = frozenset()

    @property
    def rows(self) -> tuple[Row, ...]:
        """The component table: evaluations of label maps."""
        return tuple(row for row in self.evaluations if row.protocol in COMPONENTS)

    def step(self, step_id: str) -> Step:
        """Returns the step of an id."""
        return next(s for s in self.steps if s.id == step_id)

    def stages_behind(self, step_id: str) -> frozenset[str]:
        """Returns the stages that a step's result is made of, its own among them."""
        steps = {step.id: step for step in self.steps}
        return frozenset(step.stage for step in behind(step_id, steps).values())


def behind(goal: str, steps: Mapping[str, Step]) -> dict[str, Step]:
    """Returns a step and all that it is made of, by id."""
    found: dict[str, Step] = {}
    pending = [goal]
    while pending:
        step = steps[pending.pop()]
        found[step.id] = step
        pending += step.inputs.values()
    return found
