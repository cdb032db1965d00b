"""What a sweep varies: settings with their values, seeds, and the combinations of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mdp_core.recipe.load import SweptRecipe
from mdp_core.recipe.overrides import TOP
from mdp_core.recipe.problems import InvalidRecipeError, Mark, Problem
from mdp_core.recipe.show import to_yaml
from mdp_core.recipe.source import parse

VARY = "--vary"
_MOST_RUNS = 10_000
_EXAMPLE = "for example --vary pipeline.refiner.threshold=0.5,0.7,0.9"


@dataclass(frozen=True)
class Variation:
    """One run of a sweep: what it sets beside the recipe.

    Attributes:
        settings: Setting, with dots → its value as YAML.
        seed: Seed of the run; None where the recipe's own stands.
    """

    settings: Mapping[str, str]
    seed: int | None = None

    @property
    def overrides(self) -> tuple[str, ...]:
        """The same as overrides: ``pipeline.prior.topk=0.2``."""
        seed = () if self.seed is None else (f"seed={self.seed}",)
        return (*(f"{name}={value}" for name, value in self.settings.items()), *seed)

    def __str__(self) -> str:
        return "  ".join(text.removeprefix("pipeline.") for text in self.overrides) or "the recipe as it is"


@dataclass(frozen=True)
class Axes:
    """What a sweep varies.

    Attributes:
        vary: Setting, with dots → its values as YAML.
        seeds: The seeds; None where the recipe's own stands.
        zip: Whether the first values are taken together, then the second ones …, in place of all combinations.
        metrics: What its table shows.
    """

    vary: Mapping[str, tuple[str, ...]]
    seeds: tuple[int, ...] | None
    zip: bool = False
    metrics: tuple[str, ...] = ()

    def variations(self) -> list[Variation]:
        """Returns the runs: the last setting changes fastest, and seeds faster still."""
        columns = list(self.vary.values())
        rows: Any = zip(*columns, strict=True) if self.zip and columns else itertools.product(*columns)
        chosen = [dict(zip(self.vary, row, strict=True)) for row in rows]
        return [Variation(settings, seed) for settings in chosen for seed in self.seeds or (None,)]


def read_axes(base: SweptRecipe, vary: Sequence[str] = (), seeds: str | None = None, *, zip_: bool | None = None) -> Axes:
    """Lays the command line over the ``sweep:`` section of a recipe.

    Args:
        base: The recipe's section, stages and seed.
        vary: ``SETTING=VALUE,VALUE`` each, the values YAML; a setting that the recipe varies too gets these values.
        seeds: A number of seeds, or a list such as ``1,5,9``; None for the recipe's.
        zip_: Whether values are taken in step; None for what the recipe says.

    Raises:
        InvalidRecipeError: Every mistake of the command line, or there is nothing to vary.
    """
    problems: list[Problem] = []
    given: dict[str, tuple[str, ...]] = {}
    for text in vary:
        name, values = _option(text, base.stages, problems)
        if name in given:
            problems.append(Problem(Mark(f"{VARY} {text}"), name, "given twice; write all its values into one --vary"))
        given[name] = values
    own = {_full(name, base.stages): tuple(map(text_of, values)) for name, values in base.sweep.vary.items()}
    axes = Axes({**own, **given}, _seeds(base, seeds, problems), base.sweep.zip if zip_ is None else zip_, base.sweep.metrics)
    problems += _contradictions(axes, base.name)
    if problems:
        raise InvalidRecipeError(base.name, problems)
    return axes


def text_of(value: Any) -> str:
    """Returns a value as YAML on one line: ``0.5``, ``[1, 2]``, ``{use: superpixel}``."""
    return to_yaml({"v": [value]}).rstrip("\n").removeprefix("v: [").removesuffix("]")


def _option(text: str, stages: Sequence[str], problems: list[Problem]) -> tuple[str, tuple[str, ...]]:
    mark = Mark(f"{VARY} {text}")
    name, equals, values = text.partition("=")
    if not equals or not all(part.strip() for part in name.split(".")):
        problems.append(Problem(mark, "", f"a variation is written --vary SETTING=VALUE,VALUE, {_EXAMPLE}"))
        return name, ()
    before = len(problems)
    found = parse(f"[{values}]", "", problems, one_place=mark)
    items = found.plain() if found is not None else None
    if isinstance(items, list) and items:
        return _full(name, stages), tuple(map(text_of, items))
    if len(problems) == before:
        problems.append(Problem(mark, name, f"no values; write them after '=', {_EXAMPLE}"))
    return _full(name, stages), ()


def _full(name: str, stages: Sequence[str]) -> str:
    """Returns a setting with ``pipeline.`` before it where it begins with a stage."""
    parts = [part.strip() for part in name.split(".")]
    return ".".join(parts if parts[0] in TOP or parts[0] not in stages else ["pipeline", *parts])


def _seeds(base: SweptRecipe, text: str | None, problems: list[Problem]) -> tuple[int, ...] | None:
    seeds: Any = base.sweep.seeds
    if text is not None:
        found = parse(f"[{text}]", "", [])
        items = found.plain() if found is not None else []
        whole = len(items) == 1 and isinstance(items[0], list)
        seeds = items[0] if whole or len(items) == 1 else items
        numbers = seeds if isinstance(seeds, list) else [seeds]
        good = all(type(n) is int and n >= 0 for n in numbers) and numbers and seeds != 0
        if not good:
            message = "expected how many seeds, such as 5, or a list of seeds, such as 1,5,9 or [5]"
            problems.append(Problem(Mark(f"--seeds {text}"), "", message))
            return None
    if isinstance(seeds, int):
        if base.seed is None:
            problems.append(Problem(Mark(base.name), "seed", "expected an integer ≥ 0, to count the sweep's seeds from"))
            return None
        return tuple(range(base.seed, base.seed + min(seeds, _MOST_RUNS + 1)))
    return None if seeds is None else tuple(seeds)


def _contradictions(axes: Axes, name: str) -> list[Problem]:
    found = []
    if not axes.vary and axes.seeds is None:
        found.append(f"nothing varies: give --vary SETTING=VALUE,VALUE or --seeds N, or a section sweep; {_EXAMPLE}")
    if "seed" in axes.vary and axes.seeds is not None:
        found.append("the seed is varied twice, as a setting and as seeds; leave one of them out")
    if any(setting.split(".")[0] == "sweep" for setting in axes.vary):
        found.append("a sweep cannot vary its own section")
    if axes.seeds is not None and len(set(axes.seeds)) < len(axes.seeds):
        found.append(f"a seed is there twice: {', '.join(map(str, axes.seeds))}")
    runs = (max if axes.zip else math.prod)([len(v) for v in axes.vary.values()] or [1]) * len(axes.seeds or (0,))
    if runs > _MOST_RUNS:
        found.append(f"more than {_MOST_RUNS} runs; vary less at once")
    counts = {setting: len(values) for setting, values in axes.vary.items()}
    if axes.zip and len(set(counts.values())) > 1 and all(counts.values()):
        listed = ", ".join(f"{setting} has {count}" for setting, count in counts.items())
        found.append(f"with zip, all settings have the same number of values; {listed}")
    found += [
        f"{s}: a value is there twice: {', '.join(v)}" for s, v in axes.vary.items() if len(set(v)) < len(v) and not axes.zip
    ]
    return [Problem(Mark(name), "sweep", text) for text in found]
