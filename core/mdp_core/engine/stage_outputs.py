"""What each stage of a pipeline makes, and which stage feeds which: the type check of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from mdp_core.engine.plan import LAST, Role, Step
from mdp_core.errors import RecipeError
from mdp_core.recipe.schema import StageSection

Made = Literal["weights", "masks", "clustered masks", "label maps", "class maps"]


@dataclass(frozen=True)
class StageOutput:
    """What a stage makes, and how to get the step that makes it for a role.

    Attributes:
        source: What it is made of.
        probabilities: Whether its label maps come with probabilities.
        checkpoint: Which state of the segmenter behind it predicts, in words.
    """

    stage: str
    kind: str
    product: Made
    chain: tuple[str, ...]
    step: Callable[[Role], Step]
    source: StageOutput | None = None
    probabilities: bool = False
    dense_crf: bool = False
    checkpoint: str = LAST

    def clusterer(self) -> StageOutput | None:
        """Returns the clusterer whose clusters its labels are."""
        found: StageOutput | None = self
        while found is not None and found.kind != "clusterer":
            found = found.source
        return found


_NEEDS: Mapping[str, tuple[str, ...]] = {
    "pretrainer": ("masks",),
    "prior": (),
    "clusterer": ("masks", "clustered masks"),
    "detector": ("clustered masks",),
    "segmenter": ("label maps",),
}
_ACCEPTS = {"instances": ("clustered masks",), "label-maps": ("label maps", "class maps")}
_REMEDY = {
    "masks": "put a prior before it",
    "clustered masks": "put a clusterer before it",
    "label maps": "put a refiner before it",
    "class maps": "put a probe before it",
}
_OPTIONAL = ("pretrainer",)
"""Kinds that do without an input where nobody makes it."""


def _needs(section: StageSection) -> tuple[str, ...]:
    if section.kind == "refiner":
        return tuple(made for a in getattr(type(section.config), "accepts", ("instances",)) for made in _ACCEPTS[a])
    return _NEEDS[section.kind]


def input_of(stage: str, section: StageSection, outputs: Mapping[str, StageOutput]) -> StageOutput | None:
    """Finds the stage that feeds ``stage``: the one it names, or the last before it that makes what it needs (or could use).

    Raises:
        RecipeError: Nobody makes it; the message names both sides.
    """
    if section.kind == "probe":
        return _network(stage, section, outputs)
    needs = _needs(section)
    if not needs:
        return None
    what = " or ".join(made for made in needs if made != "class maps")  # a refiner takes a probe's as it takes label maps
    if section.input is not None:
        if section.input not in outputs:
            there = ", ".join(outputs) or "none"
            raise RecipeError(f"pipeline.{stage}.input: no stage {section.input!r} before {stage!r} (there are: {there})")
        chosen = outputs[section.input]
        if chosen.product not in needs:
            raise RecipeError(f"pipeline.{stage} needs {what}, but its input {section.input!r} makes {chosen.product}")
        return _with_probabilities(stage, section, chosen)
    for output in reversed(list(outputs.values())):
        if output.product in needs:
            return _with_probabilities(stage, section, output)
    if section.kind in _OPTIONAL:
        return None
    names = {o.stage: o.stage if o.stage == o.kind else f"{o.stage} ({o.kind})" for o in outputs.values()}
    made = "; ".join(f"{names[o.stage]} makes {o.product}" for o in outputs.values()) or "it is the first stage"
    raise RecipeError(
        f"pipeline.{stage}: a {section.kind} needs {what}, and no stage before it makes any ({made})", hint=_REMEDY[needs[0]]
    )


def _network(stage: str, section: StageSection, outputs: Mapping[str, StageOutput]) -> StageOutput | None:
    """Finds the segmenter whose features a probe reads; None where it reads those of another network.

    Raises:
        RecipeError: There is none.
    """
    if not getattr(section.config, "reads_segmenter", True):
        return None
    segmenters = [stage for stage, output in outputs.items() if output.kind == "segmenter"]
    chosen = outputs.get(section.input or (segmenters or [""])[-1])
    if chosen is None or chosen.kind != "segmenter":
        found = f"its input {section.input!r} is a {chosen.kind}" if chosen else "there is none before it"
        raise RecipeError(
            f"pipeline.{stage}: a probe needs the network of a segmenter, and {found}",
            hint="put a segmenter before it, or let its settings name a network",
        )
    return chosen


def _with_probabilities(stage: str, section: StageSection, source: StageOutput) -> StageOutput:
    """Returns the input of a stage.

    Raises:
        RecipeError: The stage needs probabilities, and its input keeps none.
    """
    maps = source.product in ("label maps", "class maps")
    if maps and getattr(section.config, "needs_probabilities", False) and not source.probabilities:
        raise RecipeError(
            f"pipeline.{stage}: {section.use} needs the probabilities of {source.stage!r}, which keeps none",
            hint=f"set pipeline.{source.stage}.predict.probabilities: true, or pipeline.{stage}.unary: labels",
        )
    return source
