"""pydantic's errors → plain sentences about settings, each at its place."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mdp_core.recipe.phrases import ANYTHING, annotations_at, below, choices, got, is_model, options, phrase
from mdp_core.recipe.problems import Problem, did_you_mean, dotted
from mdp_core.recipe.source import Keys, Node, marks

_OWN_WORDS = ("value_error", "assertion_error")


def explain(
    error: ValidationError,
    model: type[BaseModel],
    tree: Node,
    path: Keys,
    *,
    skip: Collection[Keys] = (),
    more: Sequence[str] = (),
) -> list[Problem]:
    """Translates the errors of one settings model.

    Args:
        error: What pydantic found.
        model: The model.
        tree: The mapping that was validated, with places.
        path: Where the mapping lies in the recipe.
        skip: Settings (paths in the recipe) whose mistake is known already.
        more: Further keys that may stand beside the model's own, for suggestions.

    Returns:
        One problem a setting, unsorted.
    """
    by_path: dict[Keys, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_path.setdefault(_real_path(detail, model, tree), []).append(detail)
    problems = []
    for at, details in by_path.items():
        whole = (*path, *at)
        deeper = any(len(other) > len(at) and other[: len(at)] == at for other in by_path)
        if whole in skip or (deeper and not any(_kind(d) in _OWN_WORDS for d in details)):
            continue
        node = tree.nearest(at)
        at_key = not at or tree.get(at) is None or _kind(details[0]) == "extra_forbidden"
        place = node.place if at_key else node.mark
        problems.append(Problem(place, dotted(whole), _sentence(details, model, tree, at, more)))
    return problems


def explain_booleans(model: type[BaseModel], tree: Node, path: Keys) -> list[Problem]:
    """Finds what pydantic passes over: true and false where a number is wanted, which it reads as 1 and 0."""
    problems = []
    for at, (_, mark) in marks(tree).items():
        node = tree.get(at)
        if node is None or not isinstance(node.value, bool):
            continue
        annotations = annotations_at(model, at)
        taken = [o for a in annotations for o in options(a)]
        welcome = any(o in (bool, Any, object) or True in choices(o) for o in taken)
        if not welcome and any(o in (int, float) for o in taken):
            problems.append(Problem(mark, dotted((*path, *at)), f"expected {phrase(annotations)}, got {got(node.value)}"))
    return problems


def _kind(detail: ErrorDetails) -> str:
    return str(detail["type"])


def _real_path(detail: ErrorDetails, model: Any, tree: Node) -> Keys:
    """Returns an error's location without the names of union members and validators that pydantic puts into it."""
    path: Keys = ()
    annotations = [model]
    for part in detail["loc"]:
        step = (*path, part)
        inner = [found for annotation in annotations for found in below(annotation, part)]
        declared = isinstance(part, str) and any(
            is_model(a) and part in a.model_fields for o in annotations for a in options(o)
        )
        if tree.get(step) is not None or declared:
            path, annotations = step, inner or annotations
    return path


def _sentence(details: Sequence[ErrorDetails], model: type[BaseModel], tree: Node, at: Keys, more: Sequence[str]) -> str:
    kinds = {_kind(d) for d in details}
    annotations = annotations_at(model, at)
    node = tree.get(at)
    if kinds == {"missing"} and node is None:
        return f"required setting is missing; expected {phrase(annotations)}"
    if kinds == {"extra_forbidden"}:
        return f"unknown setting{_suggest(str(at[-1]), annotations_at(model, at[:-1]), more if len(at) == 1 else ())}"
    words = [str(d["ctx"]["error"]) if "ctx" in d else str(d["msg"]) for d in details if _kind(d) in _OWN_WORDS]
    rest = [d for d in details if _kind(d) not in _OWN_WORDS]
    if rest:
        value = node.plain() if node is not None else rest[0]["input"]
        words.insert(0, _expected(rest, annotations, value))
    return "; ".join(dict.fromkeys(words))


def _expected(details: Sequence[ErrorDetails], annotations: Sequence[Any], value: Any) -> str:
    taken = phrase(annotations)
    if taken == ANYTHING or any(_kind(d) not in _TRANSLATED for d in details):
        message = str(details[0]["msg"])
        return f"{message[:1].lower()}{message[1:]}, got {got(value)}"
    if all(_kind(d) in ("list_type", "tuple_type") for d in details) and isinstance(value, str):
        return f"expected {taken}, got {got(value)}; a list is written [{value}]"
    names = [str(c) for a in annotations for o in options(a) for c in choices(o)]
    return f"expected {taken}, got {got(value)}{did_you_mean(value, names) if isinstance(value, str) else ''}"


_TRANSLATED = frozenset(
    {
        "bool_parsing",
        "bool_type",
        "int_parsing",
        "int_type",
        "int_from_float",
        "int_parsing_size",
        "float_parsing",
        "float_type",
        "string_type",
        "path_type",
        "list_type",
        "tuple_type",
        "set_type",
        "frozen_set_type",
        "dict_type",
        "mapping_type",
        "model_type",
        "model_attributes_type",
        "dataclass_type",
        "literal_error",
        "enum",
        "none_required",
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
        "multiple_of",
        "too_short",
        "too_long",
        "string_too_short",
        "string_too_long",
        "string_pattern_mismatch",
        "missing",
        "iterable_type",
        "is_instance_of",
    }
)
"""Errors of type and range: what the setting takes says it all."""


def _suggest(name: str, annotations: Sequence[Any], more: Sequence[str]) -> str:
    models = [o for a in annotations for o in options(a) if is_model(o)]
    names = [*dict.fromkeys([field for m in models for field in m.model_fields]), *more]
    nested = [
        f"{field}.{name}"
        for m in models
        for field, info in m.model_fields.items()
        if any(is_model(o) and name in o.model_fields for o in options(info.annotation))
    ]
    if nested:
        return f", did you mean '{nested[0]}'?"
    return did_you_mean(name, names) or (f" (there are: {', '.join(names)})" if names else " (there are none)")
