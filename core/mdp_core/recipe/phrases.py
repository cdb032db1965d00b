"""What a setting takes, in words, from its annotation: ``a number ≥ 0 and ≤ 1``, ``one of 'a', 'b'``."""

from __future__ import annotations

import enum
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt, MaxLen, MinLen, MultipleOf
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mdp_core.recipe.source import Keys

ANYTHING = "anything"
"""The phrase for a type that has no words here."""
_NOUNS: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "values, each true or false"),
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    Path: ("a path", "paths"),
}
_LISTS = (list, tuple, set, frozenset, Sequence, Iterable, Collection)


def got(value: Any) -> str:
    """Returns a value as a recipe writes it, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "a mapping"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def is_model(annotation: Any) -> bool:
    """Returns whether an annotation is a settings model."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _of_field(field: FieldInfo) -> Any:
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def annotations_at(model: Any, path: Keys) -> list[Any]:
    """Returns the annotations of the setting at a path; several where a union leads there."""
    found = [model]
    for part in path:
        found = [inner for annotation in found for inner in below(annotation, part)]
    return found


def below(annotation: Any, part: str | int) -> Iterator[Any]:
    """Yields the annotations of what lies one key, or one position in a list, below."""
    for option in options(annotation):
        arguments = get_args(option)
        origin = get_origin(option)
        if is_model(option):
            if part in option.model_fields:
                yield _of_field(option.model_fields[part])
        elif isinstance(part, int) and origin in _LISTS and arguments:
            fixed = origin is tuple and ... not in arguments
            yield arguments[min(part, len(arguments) - 1)] if fixed else arguments[0]
        elif isinstance(part, str) and len(arguments) == 2 and isinstance(origin, type) and issubclass(origin, Mapping):
            yield arguments[1]


def options(annotation: Any) -> Iterator[Any]:
    """Yields the members of a union, itself for anything else, without their constraints."""
    for option, _ in _constrained(annotation):
        yield option


def _constrained(annotation: Any, constraints: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        yield from _constrained(inner, (*_flat(metadata), *constraints))
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _constrained(member, constraints)
    else:
        yield annotation, constraints


def _flat(metadata: Iterable[Any]) -> Iterator[Any]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _flat(item.metadata)
        elif isinstance(item, GroupedMetadata):
            yield from _flat(item)
        else:
            yield item


def phrase(annotations: Iterable[Any]) -> str:
    """Says what a setting takes: ``a number ≥ 0 and ≤ 1``, ``one of 'a', 'b'``, ``an integer or null``."""
    phrases: list[str] = []
    nullable = False
    for annotation in annotations:
        for option, constraints in _constrained(annotation):
            if option in (None, type(None)):
                nullable = True
            else:
                phrases.append(_noun(option, plural=False) + _limits(constraints))
    if nullable:
        phrases.append("null")
    return ANYTHING if ANYTHING in phrases or not phrases else " or ".join(dict.fromkeys(phrases))


def choices(option: Any) -> tuple[Any, ...]:
    """Returns the values of a Literal or an Enum; nothing for any other type."""
    if get_origin(option) is Literal:
        return get_args(option)
    if isinstance(option, type) and issubclass(option, enum.Enum):
        return tuple(member.value for member in option)
    return ()


def _noun(option: Any, *, plural: bool) -> str:
    if members := choices(option):
        listed = ", ".join(map(got, members))
        one_of = f"one of {listed}" if len(members) > 1 else listed
        return f"values, each {one_of}" if plural else one_of
    if isinstance(option, type) and option in _NOUNS:
        return _NOUNS[option][plural]
    origin = get_origin(option) or option
    if origin in _LISTS:
        return "lists" if plural else _list_noun(option)
    if is_model(option) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return "mappings" if plural else "a mapping"
    return ANYTHING


def _list_noun(option: Any) -> str:
    arguments = get_args(option)
    count = ""
    if get_origin(option) is tuple and arguments and ... not in arguments:
        count = f"{len(arguments)} "
    members = {_noun(o, plural=True) + _limits(c) for a in arguments if a is not ... for o, c in _constrained(a)}
    noun = members.pop() if len(members) == 1 else "values"
    if noun == ANYTHING:
        noun = "values"
    return f"a list of {count}{noun}" if count or noun != "values" else "a list"


def _limits(constraints: Iterable[Any]) -> str:
    parts = []
    for c in constraints:
        if isinstance(c, Ge | Gt | Le | Lt):
            sign, limit = next(
                (s, getattr(c, n)) for n, s in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")) if hasattr(c, n)
            )
            parts.append(f"{sign} {int(limit) if isinstance(limit, float) and limit.is_integer() else limit}")
        elif isinstance(c, MultipleOf):
            parts.append(f"divisible by {c.multiple_of}")
        elif isinstance(c, MinLen) and c.min_length:
            parts.append("not empty" if c.min_length == 1 else f"of length ≥ {c.min_length}")
        elif isinstance(c, MaxLen):
            parts.append(f"of length ≤ {c.max_length}")
        elif isinstance(pattern := getattr(c, "pattern", None), str):
            parts.append(f"of the form {pattern}")
    return f" {' and '.join(parts)}" if parts else ""
