"""Texts that several cases share."""

from __future__ import annotations

from malformed_cases.case import TOY, Case

DATA = "data: {use: shapes, size: 48, train_images: 4, val_images: 2}\n"
PIPELINE = """\
pipeline:
  prior: {use: bright}
  clusterer: {use: colour, clusters: 2}
  refiner: {use: keep}
"""
GOOD = f"name: mine\n{DATA}{PIPELINE}"
"""A recipe without mistakes, for the plugin toy_method.py."""


def recipe(mistake: str, text: str | bytes, *more: str, **settings: object) -> Case:
    """Returns the case of a recipe with a mistake in it."""
    command = " ".join(["mdp run mine.yaml", *more])
    return Case(mistake, command, {"mine.yaml": text}, **settings)  # type: ignore[arg-type]


def toy(mistake: str, text: str, *more: str, **settings: object) -> Case:
    """Returns the case of a recipe for the plugin of the tests, toy_method.py."""
    command = " ".join(["mdp run mine.yaml --plugin toy.py --no-track", *more])
    return Case(mistake, command, {"mine.yaml": text, "toy.py": TOY}, **settings)  # type: ignore[arg-type]
