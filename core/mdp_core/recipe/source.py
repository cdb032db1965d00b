"""YAML text → a tree whose every key and value knows where it is written.

Scalars are read by the rules of YAML 1.2 (core schema): ``1e-3`` is a number; ``yes``, ``no``, ``on`` and ``off`` are texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from mdp_core.recipe.problems import Mark, Problem

Scalar = str | int | float | bool | None
Keys = tuple[str | int, ...]
"""The way to a value: keys of mappings and positions in lists."""
_TAG = "tag:yaml.org,2002:"
_MOST_NODES = 100_000

IMPLICIT: tuple[tuple[str, str, str], ...] = (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
)
"""YAML 1.2 core schema: tag, pattern, first characters."""

# ``{root: ${VOC_ROOT}}`` is no YAML, and people write it: inside a reference, YAML's brackets and commas are hidden from
# the parser as private characters of the same width, so that columns stay true.
_REFERENCE = re.compile(r"\$\{[^{}\n]*\}")
_HIDE = {ord(c): chr(0xE000 + ord(c)) for c in "{}[],"}
_SHOW = {ord(hidden): chr(c) for c, hidden in _HIDE.items()}
_HIDDEN = re.compile("\\$" + chr(0xE07B) + "[^\n]*?" + chr(0xE07D))


@dataclass(frozen=True)
class Node:
    """A value of a recipe with its place.

    Attributes:
        value: A scalar, a mapping of nodes or a list of nodes.
        mark: Where the value is written.
        key: Where its key is written; None in lists and at the top.
    """

    value: Scalar | dict[str, Node] | list[Node]
    mark: Mark
    key: Mark | None = None

    @property
    def place(self) -> Mark:
        """Where its key is written, or the value itself where there is no key."""
        return self.key or self.mark

    @property
    def mapping(self) -> Mapping[str, Node]:
        """The nodes of a mapping; empty for any other value."""
        return self.value if isinstance(self.value, dict) else {}

    def get(self, path: Keys) -> Node | None:
        """Returns the node at a path below this one, or None."""
        node = self
        for part in path:
            children: Any = node.value
            if isinstance(children, list):
                children = dict(enumerate(children))
            if not isinstance(children, dict) or part not in children:
                return None
            node = children[part]
        return node

    def nearest(self, path: Keys) -> Node:
        """Returns the node at a path, or the deepest one on the way to it."""
        while True:
            found = self.get(path)
            if found is not None:
                return found
            path = path[:-1]

    def plain(self) -> Any:
        """Returns the value without places: dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {name: node.plain() for name, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def marks(tree: Node) -> dict[Keys, tuple[Mark | None, Mark]]:
    """Returns the places of every key and value of a tree, by path: (key, value)."""
    found: dict[Keys, tuple[Mark | None, Mark]] = {}

    def visit(node: Node, path: Keys) -> None:
        found[path] = (node.key, node.mark)
        children = enumerate(node.value) if isinstance(node.value, list) else node.mapping.items()
        for part, child in children:
            visit(child, (*path, part))

    visit(tree, ())
    return found


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own declaration


for _name, _pattern, _first in IMPLICIT:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), [*_first, *([""] if _name == "null" else [])])


def parse(text: str, source: str, problems: list[Problem], *, one_place: Mark | None = None) -> Node | None:
    """Reads YAML.

    Args:
        text: The YAML.
        source: Name of the file in messages.
        problems: Takes the mistakes: bad syntax, duplicate keys, keys that are no text, tags.
        one_place: The place of everything in it, where lines mean nothing (an override).

    Returns:
        The tree; None where the text is no YAML at all. An empty text is a null.
    """
    start = one_place or Mark(source, 1, 1)
    try:
        hidden = _REFERENCE.sub(lambda m: m[0][:1] + m[0][1:].translate(_HIDE), text)
        root = yaml.compose(hidden, _Loader)
        if root is None:
            return Node(None, start)
        return _Builder(source, problems, one_place).build(root, None, ())
    except yaml.MarkedYAMLError as error:
        problems.append(_syntax_problem(error, source, one_place))
    except yaml.reader.ReaderError as error:
        lines = text[: error.position].split("\n") if isinstance(error.position, int) else [""]
        place = one_place or Mark(source, len(lines), len(lines[-1]) + 1)
        problems.append(Problem(place, "", f"not YAML: a character that may not occur in it (code {error.character})"))
    except RecursionError:
        problems.append(Problem(start, "", "not a recipe: it is nested too deeply"))
    except _TooLargeError:
        problems.append(Problem(start, "", f"not a recipe: with its aliases expanded it has more than {_MOST_NODES} values"))
    return None


_PLAINER = {
    "found character '\\t' that cannot start any token": "a tab; YAML is indented with spaces",
    "mapping values are not allowed here": "a ':' that is not expected here; put texts that contain ': ' in quotes, "
    "or check the indentation of this line and the one before",
    "expected a single document in the stream": "a second document begins here; a recipe is one document, without '---' in it",
}
_PLAINER_CONTEXT = {
    "while parsing a flow sequence": "a ',' or the closing ']' is missing in the list that begins",
    "while parsing a flow mapping": "a ',' or the closing '}' is missing in the mapping that begins",
    "while scanning a quoted scalar": "the closing quote is missing of the text that begins",
    "while parsing a block mapping": "the indentation of this line fits nothing in the mapping that begins",
    "while parsing a block collection": "the indentation of this line fits nothing in the list that begins",
}


def _syntax_problem(error: yaml.MarkedYAMLError, source: str, one_place: Mark | None) -> Problem:
    """Says what is wrong with the syntax in words that do not need PyYAML's; a bracket or quote is named with its beginning."""

    def place(mark: yaml.Mark | None) -> Mark:
        return one_place or (Mark(source, 1, 1) if mark is None else Mark(source, mark.line + 1, mark.column + 1))

    problem, context = _reveal(error.problem or "bad syntax"), _reveal(error.context or "")
    words = _PLAINER.get(problem) or _PLAINER.get(context)
    if words is None and context in _PLAINER_CONTEXT:
        begins = "here" if one_place or error.context_mark is None else f"at {place(error.context_mark)}"
        words = f"{_PLAINER_CONTEXT[context]} {begins}"
    at = place(error.problem_mark or error.context_mark)
    return Problem(at, "", f"not YAML: {words or (f'{context}, {problem}' if context else problem)}")


def _reveal(text: str) -> str:
    return _HIDDEN.sub(lambda m: m[0].translate(_SHOW), text)


class _TooLargeError(Exception):
    """Aliases that multiply without end."""


class _Builder:
    """Turns PyYAML's nodes into ours."""

    def __init__(self, source: str, problems: list[Problem], one_place: Mark | None) -> None:
        self._source = source
        self._problems = problems
        self._one_place = one_place
        self._open: set[int] = set()
        self._count = 0

    def build(self, node: yaml.Node, key: Mark | None, path: Keys) -> Node:
        self._count += 1
        if self._count > _MOST_NODES:
            raise _TooLargeError
        mark = self._mark(node)
        if id(node) in self._open:
            self._report(mark, path, "an alias of a value that contains the alias itself")
            return Node(None, mark, key)
        self._open.add(id(node))
        try:
            return Node(self._value(node, mark, path), mark, key)
        finally:
            self._open.remove(id(node))

    def _value(self, node: yaml.Node, mark: Mark, path: Keys) -> Scalar | dict[str, Node] | list[Node]:
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.build(item, None, (*path, i)) for i, item in enumerate(node.value)]
        convert = _SCALARS.get(node.tag.removeprefix(_TAG)) if isinstance(node, yaml.ScalarNode) else None
        if convert is None:
            self._report(mark, path, f"the tag {node.tag.replace(_TAG, '!!')} has no meaning in a recipe")
            return None
        try:
            return convert(_reveal(node.value))
        except ValueError:
            self._report(mark, path, f"{node.value!r} is no {node.tag.removeprefix(_TAG)}")
            return None

    def _mapping(self, node: yaml.MappingNode, path: Keys) -> dict[str, Node]:
        own: dict[str, Node] = {}
        inherited: dict[str, Node] = {}
        for key_node, value_node in node.value:
            mark = self._mark(key_node)
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != f"{_TAG}str":
                text = f"; write '{key_node.value}' in quotes" if isinstance(key_node, yaml.ScalarNode) else ""
                self._report(mark, path, f"a key that is no text{text}")
                continue
            name = _reveal(key_node.value)
            if name == "<<" and key_node.style is None:
                self._inherit(value_node, inherited, path)
                continue
            child = self.build(value_node, mark, (*path, name))
            if name in own:
                self._report(mark, (*path, name), f"given twice, first at {own[name].place}")
            own[name] = child
        return {**inherited, **own}

    def _inherit(self, node: yaml.Node, inherited: dict[str, Node], path: Keys) -> None:
        """``<<: *anchor``, or a list of anchors of which the first wins."""
        for item in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(item, yaml.MappingNode):
                self._report(self._mark(item), path, "'<<' takes a mapping or a list of mappings")
                continue
            for name, child in self.build(item, None, path).mapping.items():
                inherited.setdefault(name, child)

    def _mark(self, node: yaml.Node) -> Mark:
        return self._one_place or Mark(self._source, node.start_mark.line + 1, node.start_mark.column + 1)

    def _report(self, mark: Mark, path: Keys, message: str) -> None:
        self._problems.append(Problem(mark, ".".join(map(str, path)), message))


def _int(text: str) -> int:
    digits = text.lower()
    return int(digits, 8) if digits.startswith("0o") else int(digits, 16) if digits.startswith("0x") else int(digits)


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


_SCALARS: dict[str, Callable[[str], Scalar]] = {
    "str": str,
    "int": _int,
    "float": _float,
    "bool": _bool,
    "null": lambda _: None,
}
