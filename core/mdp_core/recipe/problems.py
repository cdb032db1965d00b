"""Mistakes in recipes: where each stands, what it is about, and what is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mdp_core.errors import RecipeError

SET = "--set"


@dataclass(frozen=True)
class Mark:
    """Where something is written.

    Attributes:
        source: The file as messages show it, or the whole override: ``--set pipeline.refiner.threshold=0.7``.
        line: Line in the file, from 1; 0 where there are no lines.
        column: Column in the line, from 1.
    """

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source

    @property
    def is_override(self) -> bool:
        """Whether it was written on the command line."""
        return self.source.startswith(SET)

    @property
    def origin(self) -> str:
        """The place in short: ``recipes/pascal.yaml:7``, or ``--set``."""
        if self.is_override:
            return SET
        return f"{self.source}:{self.line}" if self.line else self.source

    def sort_key(self) -> tuple[bool, str, int, int]:
        """Orders by file, line and column; the command line comes last."""
        return (self.is_override, self.source, self.line, self.column)


@dataclass(frozen=True)
class Problem:
    """One mistake.

    Attributes:
        place: Where it is written.
        path: The setting, with dots: ``pipeline.prior.topk``; empty where the text itself is wrong.
        message: What is wrong and what to do, in one line.
    """

    place: Mark
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.path}: {self.message}" if self.path else f"{self.place}: {self.message}"


class InvalidRecipeError(RecipeError):
    """All mistakes of one recipe, sorted by place.

    Args:
        recipe: The recipe as messages show it.
        problems: The mistakes, at least one.

    Attributes:
        problems: The same, sorted by file and line, each once.
    """

    def __init__(self, recipe: str, problems: Iterable[Problem]) -> None:
        self.recipe = recipe
        self.problems = tuple(sorted(dict.fromkeys(problems), key=lambda p: p.place.sort_key()))
        count = len(self.problems)
        head = f"{count} mistake{'' if count == 1 else 's'} in {recipe}:"
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.recipe, self.problems))


def did_you_mean(name: object, names: Iterable[str]) -> str:
    """Returns ``, did you mean 'x'?`` for the closest of ``names``, or nothing where none is close."""
    close = difflib.get_close_matches(str(name), list(names), 1)
    return f", did you mean '{close[0]}'?" if close else ""


def dotted(path: Iterable[str | int]) -> str:
    """Returns a path of keys and list positions as people write it: ``evaluate.0``."""
    return ".".join(map(str, path))
