"""References to environment variables in the texts of a recipe: ``${NAME}`` and ``${NAME:-default}``; ``$$`` is a dollar."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from mdp_core.recipe.problems import Problem, dotted
from mdp_core.recipe.source import Keys, Node

_TOKEN = re.compile(r"\$\$|\$\{(?P<inside>[^{}]*)(?P<close>\}?)")
_INSIDE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)


def substitute(tree: Node, environ: Mapping[str, str], problems: list[Problem]) -> tuple[Node, set[Keys]]:
    """Replaces the references in all texts of a tree. A text stays a text, even one that looks like a number.

    Args:
        tree: The recipe.
        environ: The environment's variables. As in a shell, ``:-default`` also stands in for an empty one.
        problems: Takes the references to variables that are not set.

    Returns:
        The tree without references, and the paths whose texts could not be completed.
    """
    failed: set[Keys] = set()

    def visit(node: Node, path: Keys) -> Node:
        if isinstance(node.value, dict):
            return replace(node, value={name: visit(child, (*path, name)) for name, child in node.value.items()})
        if isinstance(node.value, list):
            return replace(node, value=[visit(child, (*path, i)) for i, child in enumerate(node.value)])
        if not isinstance(node.value, str) or "$" not in node.value:
            return node
        text, messages = _complete(node.value, environ, path, overridden=node.mark.is_override)
        if messages:
            failed.add(path)
            problems.extend(Problem(node.mark, dotted(path), message) for message in messages)
            return node
        return replace(node, value=text)

    return visit(tree, ()), failed


def escape(text: str) -> str:
    """Returns a text that ``substitute`` turns back into ``text``."""
    return text.replace("$", "$$")


def _complete(text: str, environ: Mapping[str, str], path: Keys, *, overridden: bool) -> tuple[str, list[str]]:
    messages: list[str] = []

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        parts = _INSIDE.fullmatch(match["inside"]) if match["close"] else None
        if parts is None:
            messages.append(
                f"{match[0]!r} is no reference to an environment variable; write ${{NAME}}, or $${{ for the text itself"
            )
            return ""
        found = environ.get(parts["name"])
        if parts["default"] is not None:
            return found or str(parts["default"])
        if found is None:
            setting = dotted(part for part in path if isinstance(part, str))
            other = "" if overridden else f" or --set {setting}=…"
            messages.append(f"environment variable {parts['name']} is not set; export {parts['name']}=…{other}")
        return found or ""

    return _TOKEN.sub(value, text), messages
