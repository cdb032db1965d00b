"""Describes a settings model for people: used by ``mdp plugins show`` and by the generated docs."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from mdp_core.settings import Settings


@dataclass(frozen=True)
class SettingDoc:
    """One setting: dotted name, type with its range, default as YAML would write it, meaning."""

    name: str
    type: str
    default: str
    meaning: str


def describe(model: type[Settings], prefix: str = "") -> Iterator[SettingDoc]:
    """Yields the settings of a model, those of sub-models with dotted names."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Settings):
            yield from describe(annotation, f"{prefix}{name}.")
        else:
            meaning = " ".join((field.description or "").split())
            yield SettingDoc(f"{prefix}{name}", _type(annotation) + _limits(field), _default(field), meaning)


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return " | ".join(str(a) for a in arguments)
    if origin in (Union, types.UnionType):
        return " | ".join(_type(a) for a in arguments)
    if annotation is type(None):
        return "null"
    if origin in (list, tuple, set, frozenset):
        inner = [_type(a) for a in arguments if a is not Ellipsis]
        return "[" + ", ".join(inner) + (", …]" if Ellipsis in arguments or origin is not tuple else "]")
    if origin is dict:
        return "mapping"
    names: dict[Any, str] = {str: "text", int: "integer", float: "number", bool: "true | false", Path: "path", Any: "any"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _limits(field: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "multiple of"}
    found = [
        f"{sign} {getattr(mark, name)}"
        for mark in field.metadata
        for name, sign in signs.items()
        if getattr(mark, name, None) is not None
    ]
    return f" ({', '.join(found)})" if found else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "null" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
