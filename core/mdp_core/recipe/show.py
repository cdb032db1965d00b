"""A recipe as YAML: what ``mdp recipe show`` prints. Without its comments the text loads to the same recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from mdp_core.recipe.environment import escape
from mdp_core.recipe.load import LoadedRecipe
from mdp_core.recipe.problems import dotted
from mdp_core.recipe.source import IMPLICIT

_COMMENT_COLUMN = 48


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        """Writes everything out, however often it occurs."""
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Keeps texts with line breaks and control characters on one line, in double quotes."""
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_str)

for _name, _pattern, _first in IMPLICIT:
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), list(_first))


def show(loaded: LoadedRecipe, *, resolved: bool = False) -> str:
    """Returns a recipe as YAML.

    Args:
        loaded: The recipe.
        resolved: Print every setting with its origin in a comment; otherwise only what the recipe's layers say.
    """
    if not resolved:
        return to_yaml(loaded.merged)
    return to_yaml(_escaped(loaded.resolved), loaded.origins)


def resolved_text(resolved: Mapping[str, Any]) -> str:
    """Returns the settings of a run, as its record has them, as a recipe that loads to the same settings."""
    return to_yaml(_escaped(resolved))


def to_yaml(tree: Mapping[str, Any], comments: Mapping[str, str] | None = None) -> str:
    """Returns a tree as YAML, one setting a line.

    Args:
        tree: Dicts with text keys, lists and scalars.
        comments: Setting (with dots) → comment at the end of its line.
    """
    return "".join(f"{line}\n" for line in _lines(tree, (), comments or {}))


def _lines(tree: Mapping[str, Any], path: tuple[str, ...], comments: Mapping[str, str]) -> Iterator[str]:
    for key, value in tree.items():
        here = (*path, key)
        start = f"{'  ' * len(path)}{inline(key)}:"
        if isinstance(value, Mapping) and value:
            yield start
            yield from _lines(value, here, comments)
            continue
        line = f"{start} {inline(value)}"
        comment = comments.get(dotted(here))
        yield f"{line:<{_COMMENT_COLUMN}}  # {comment}" if comment else line


def inline(value: Any) -> str:
    """Returns a value on one line."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False)
    return str(text).removesuffix("\n").removesuffix("\n...")


def _escaped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _escaped(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_escaped(child) for child in value]
    return escape(value) if isinstance(value, str) else value
