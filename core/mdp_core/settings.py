"""Settings of a plugin: pydantic models that also say which step each setting belongs to.

A step's cache key holds only the settings that the step depends on. The rule is short:

* a sub-model named after a step (``embed``, ``fit``, ``predict`` …) belongs to that step alone;
* a field marked ``Annotated[..., OnlyFor("fit")]`` belongs to the steps named;
* a field marked ``Annotated[..., NoEffect]`` (batch size, workers) changes no result and belongs to no key;
* every other field belongs to every step of the stage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from mdp_core.errors import PluginError

__all__ = ["NoEffect", "OnlyFor", "Settings", "StageConfig", "WeightsRef", "file_sha256", "step_settings"]


@dataclass(frozen=True)
class OnlyFor:
    """Marks a setting that matters to the named steps only, for example ``OnlyFor("fit")``."""

    steps: tuple[str, ...]

    def __init__(self, *steps: str) -> None:
        object.__setattr__(self, "steps", steps)


class _NoEffect:
    def __repr__(self) -> str:
        return "NoEffect"


NoEffect = _NoEffect()
"""Marks a setting that changes speed or memory but never a result."""


class _FileContents:
    """Marks a setting ``file:PATH`` whose key is the contents of the file, not its path."""


_SCHEMES = ("timm", "file", "builtin")


def _check_weights_ref(value: str) -> str:
    scheme, colon, rest = value.partition(":")
    if not colon or scheme not in _SCHEMES or not rest:
        raise ValueError("weights are written timm:NAME, file:PATH or builtin:NAME")
    if scheme == "file":
        path = Path(rest).expanduser()
        if not path.is_file():
            raise ValueError(f"no such file: {path}")
    return value


WeightsRef = Annotated[str, AfterValidator(_check_weights_ref), _FileContents()]
"""Where weights come from: ``timm:NAME`` (hub cache), ``file:PATH`` (.pth or .safetensors), ``builtin:NAME``."""


class Settings(BaseModel):
    """Base of every settings model: unknown keys are errors, values are immutable, docstrings are the help texts."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


class StageConfig(Settings):
    """Settings of one plugin, and what the engine must know of the plugin before importing it.

    Keep the module of this class free of heavy imports: ``mdp plan`` imports it, ``mdp plan`` does not import torch.
    """

    cache_version: ClassVar[int] = 1
    """Raise it when the plugin's results change for the same settings: stored results are then made anew."""
    seeded_steps: ClassVar[tuple[str, ...]] = ("fit",)
    """Steps whose results depend on the recipe's seed; the others see seed 0 and are shared by runs of all seeds."""
    uses_labels: ClassVar[str | None] = None
    """What ground truth the plugin uses, in words; None (no labels) is the rule. Every result repeats it."""


def file_sha256(path: Path) -> str:
    """Returns the sha256 of a file's contents, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def step_settings(config: Settings, step: str, steps: Iterable[str]) -> dict[str, Any]:
    """Returns the settings that one step of a stage depends on, ready for its key.

    Args:
        config: The plugin's settings.
        step: Name of the step, for example ``"fit"``.
        steps: Names of all steps of the stage.

    Returns:
        JSON-ready settings; ``file:PATH`` becomes ``file-sha256:…`` so that moving a file changes nothing.

    Raises:
        PluginError: A setting is marked for a step that the stage does not have, and would be in no key at all.
    """
    known = {step, *steps}
    keyed = _keyed(config, step, known)
    fields = type(config).model_fields
    return {
        name: value
        for name, value in keyed.items()
        if name == step or name not in known or _only_for(fields[name]) or not _holds_settings(fields[name].annotation)
    }


def _keyed(config: Settings, step: str, known: set[str]) -> dict[str, Any]:
    dumped = config.model_dump(mode="json")
    result: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        marks = list(_marks(field))
        only = _only_for(field)
        if not only <= known:
            raise PluginError(
                f"{type(config).__name__}.{name} is marked OnlyFor({', '.join(map(repr, sorted(only)))}), but the steps are "
                f"{', '.join(sorted(known))}",
                hint="name a step of the stage in OnlyFor; as it is, the setting would be in no key",
            )
        if any(isinstance(mark, _NoEffect) for mark in marks) or (only and step not in only):
            continue
        files = any(isinstance(mark, _FileContents) for mark in marks)

        def value_of(value: Any, plain: Any, files: bool = files) -> Any:
            if isinstance(value, Settings):
                return _keyed(value, step, known)
            if isinstance(value, list | tuple) and isinstance(plain, list) and len(value) == len(plain):
                return [value_of(*pair) for pair in zip(value, plain, strict=True)]
            if isinstance(value, Mapping) and isinstance(plain, dict) and len(value) == len(plain):
                return {key: value_of(*pair) for key, *pair in zip(plain, value.values(), plain.values(), strict=True)}
            if isinstance(value, Set) and isinstance(plain, list):
                return sorted(plain, key=repr)
            if files and isinstance(value, str) and value.startswith("file:"):
                return "file-sha256:" + file_sha256(Path(value.removeprefix("file:")).expanduser())
            return plain

        result[name] = value_of(getattr(config, name), dumped[name])
    return result


def weight_refs(config: Settings) -> Iterator[str]:
    """Yields the weights that settings name (``timm:NAME``, ``file:PATH``, ``builtin:NAME``), those of sub-models too."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Settings):
            yield from weight_refs(value)
        elif isinstance(value, str) and any(isinstance(mark, _FileContents) for mark in _marks(field)):
            yield value


def _only_for(field: FieldInfo) -> set[str]:
    return {step for mark in _marks(field) if isinstance(mark, OnlyFor) for step in mark.steps}


def _marks(field: FieldInfo) -> Iterator[Any]:
    """Yields what ``Annotated`` says of a field, also inside ``X | None`` and ``list[X]``."""
    yield from field.metadata
    pending = [field.annotation]
    while pending:
        annotation = pending.pop()
        yield from getattr(annotation, "__metadata__", ())
        pending.extend(argument for argument in get_args(annotation) if get_origin(annotation) is not Literal)


def _holds_settings(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return True
    return any(_holds_settings(argument) for argument in get_args(annotation))
