"""``--set pipeline.refiner.threshold=0.7``: settings from the command line, as one layer over the recipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from mdp_core.recipe.problems import SET, Mark, Problem, did_you_mean
from mdp_core.recipe.schema import Recipe
from mdp_core.recipe.source import Node, parse

TOP = tuple(Recipe.model_fields)
"""The keys of a recipe's top level."""


def parse_overrides(overrides: Sequence[str], stages: Iterable[str], problems: list[Problem]) -> Node:
    """Reads overrides into one tree; of two for one setting the later one counts.

    ``prior.topk=0.2`` means ``pipeline.prior.topk=0.2`` where ``prior`` is a stage and no key of the recipe.

    Args:
        overrides: ``SETTING=VALUE`` each; the value is YAML (``null``, ``[1, 2]``, ``'007'``).
        stages: Ids of the recipe's stages.
        problems: Takes the mistakes.
    """
    known = list(stages)
    tree = Node({}, Mark(SET))
    for override in overrides:
        mark = Mark(f"{SET} {override}")
        setting, equals, text = override.partition("=")
        path = tuple(part.strip() for part in setting.split("."))
        if not equals or not all(path):
            problems.append(Problem(mark, "", "an override is written --set SETTING=VALUE, for example --set seed=3"))
            continue
        value = parse(text, "", problems, one_place=mark)
        if value is None:
            continue
        if path[0] not in TOP and path[0] in known:
            path = ("pipeline", *path)
        if path[0] not in TOP:
            problems.append(Problem(mark, setting, _unknown(path[0], known)))
            continue
        if path[0] == "pipeline":
            known += [*path[1:2], *(value.mapping if len(path) == 1 else ())]
        tree = _overlay(tree, _chain(path, value, mark))
    return tree


def _unknown(name: str, stages: Sequence[str]) -> str:
    if name == "extends":
        return "extends can stand in a file only"
    return f"neither a setting of the recipe nor one of its stages{did_you_mean(name, [*TOP, *stages])}"


def _chain(path: Sequence[str], value: Node, mark: Mark) -> Node:
    node = replace(value, key=mark)
    for part in reversed(path):
        node = Node({part: node}, mark, mark)
    return node


def _overlay(base: Node, over: Node) -> Node:
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    merged = dict(base.value)
    for name, node in over.value.items():
        merged[name] = _overlay(merged[name], node) if name in merged else node
    return replace(base, value=merged)
