"""Settings of a plugin: pydantic models that also say which step each setting belongs to.

A step's cache key holds only the settings that the step depends on. The rule is short:

* a sub-model named after a step (``embed``, ``fit``, ``predict`` …) belongs to that step alone;
* a field marked ``Annotated[..., OnlyFor("fit")]`` belongs to the steps named;
* a field marked ``Annotated[..., NoEffect]`` (batch size, workers) changes no result and belongs to no key;
* every other field belongs to every step of the stage.

A path is written as ``PathRef``: what is in the key is what lies there, not where it lies.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from mdp_core.errors import DataError, PluginError, WeightsError

__all__ = [
    "NoEffect",
    "OnlyFor",
    "PathRef",
    "Settings",
    "StageConfig",
    "WeightsRef",
    "check_sha256",
    "file_sha256",
    "files_below",
    "step_settings",
    "weights_file",
]


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


class _PathContents:
    """Marks a setting that is a path, whose key is the contents of the file, or of all files in the folder."""


WEIGHT_SCHEMES = ("timm", "file", "builtin")
"""What weights that are there before a run begins are written with."""
_SCHEMES = (*WEIGHT_SCHEMES, "stage")
_HASH = "#sha256="


def _check_weights_ref(value: str) -> str:
    scheme, colon, rest = value.partition(":")
    if not colon or scheme not in _SCHEMES or not rest:
        raise ValueError(f"weights are written timm:NAME, file:PATH, builtin:NAME or stage:NAME, got {value!r}")
    if scheme == "file":
        path, sha256 = weights_file(value)
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name the file of weights in it")
        if not path.is_file():
            there = [found.name for found in path.parent.iterdir()] if path.parent.is_dir() else []
            close = difflib.get_close_matches(path.name, there, 1)
            raise ValueError(f"no such file: {path}" + (f", did you mean {path.with_name(close[0])}?" if close else ""))
        if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise ValueError(f"expected 64 hexadecimal digits after {_HASH}, got {sha256!r}")
    return value


def weights_file(ref: str) -> tuple[Path, str | None]:
    """Returns the path of ``file:PATH`` or ``file:PATH#sha256=HEX``, and the sha256 that is expected of it (lower case)."""
    path, mark, sha256 = ref.removeprefix("file:").rpartition(_HASH)
    return Path(path if mark else sha256).expanduser(), sha256.lower() if mark else None


WeightsRef = Annotated[str, AfterValidator(_check_weights_ref), _FileContents()]
"""Where weights come from: ``timm:NAME`` (hub cache), ``file:PATH`` (.pth or .safetensors; ``file:PATH#sha256=HEX`` insists on its
contents), ``builtin:NAME``, or ``stage:NAME``, an earlier pretrainer of the pipeline; the engine gives a plugin its result as ``file:PATH``."""


def _check_path(value: str) -> str:
    path = Path(value).expanduser()
    if not value or not path.exists():
        there = [found.name for found in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, there, 1)
        raise ValueError(f"no such file or folder: {path}" + (f", did you mean {path.with_name(close[0])}?" if close else ""))
    return value


PathRef = Annotated[str, AfterValidator(_check_path), _PathContents()]
"""Path of a file, or of a folder whose files count (``files_below``), relative to where the program is started; ``~`` is the home
folder. Keys hold the names (of files in a folder) and contents, so that a changed file is seen and a moved one makes no difference."""

_STAGE = "stage:"
StageKey = Callable[[str], str]
"""Id of a pretrainer stage → the key of its training."""


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
    distributed_steps: ClassVar[tuple[str, ...]] = ()
    """Steps that several processes can do together, each calling the plugin with torchrun's environment variables set."""
    uses_labels: ClassVar[str | None] = None
    """What ground truth the plugin uses, in words; None (no labels) is the rule. Every result repeats it."""
    trial: ClassVar[Mapping[str, Any]] = {}
    """Settings, as a recipe writes them, with which the plugin can be tried anywhere in seconds: weights that come with it, small
    images and networks, a few iterations. ``mdp plugins check`` and ``mdp_core.testing`` take them."""

    @classmethod
    def trial_settings(cls, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Returns ``trial`` with the settings ``given`` over it, those of sub-models likewise."""
        return _over(cls.trial, given or {})

    def labels_used(self) -> str | None:
        """Returns what ground truth the plugin uses with these settings, in words; ``uses_labels`` where they do not matter."""
        return type(self).uses_labels

    def fit_effort(self, images: int) -> float | None:
        """Returns how much work the step ``fit`` is, in a unit of the plugin's own; None where that cannot be told.

        ``mdp plan`` estimates the time of a training from that of an earlier one in proportion to it.

        Args:
            images: How many images the stage learns from.
        """
        return None


def _over(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    both = (name for name, value in given.items() if isinstance(value, Mapping) and isinstance(base.get(name), Mapping))
    return copy.deepcopy({**base, **given, **{name: _over(base[name], given[name]) for name in both}})


def file_sha256(path: Path) -> str:
    """Returns the sha256 of a file's contents, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path) -> tuple[str, ...]:
    """Returns the files of a folder and of the folders in it (links are followed), as sorted relative paths with ``/``.

    Names that begin with a dot are left out: what a desktop or an editor leaves behind is no part of the contents.
    """
    found, seen = [], set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        found += [] if real in seen else [Path(here, name) for name in files if not name.startswith(".")]
        seen.add(real)
    return tuple(sorted(path.relative_to(folder).as_posix() for path in found))


@lru_cache(maxsize=1 << 16)
def _known_sha256(path: Path, _size: int, _changed: int) -> str:
    return file_sha256(path)


def _contents_sha256(ref: str) -> str:
    """Returns the sha256 of a file, or of the names and contents of a folder's files; each file is read once a process.

    Raises:
        DataError: Something cannot be read.
    """
    path = Path(ref).expanduser()

    def of_file(file: Path) -> str:
        status = file.stat()
        return _known_sha256(file.absolute(), status.st_size, status.st_mtime_ns)

    try:
        if not path.is_dir():
            return of_file(path)
        lines = "".join(f"{of_file(path / name)} {name!r}\n" for name in files_below(path))
    except OSError as error:
        raise DataError(
            f"{error.filename or path}: cannot be read ({error.strerror})", hint="its contents are a part of the result's key"
        ) from error
    return hashlib.sha256(lines.encode()).hexdigest()


def _checked_sha256(ref: str) -> str:
    path, expected = weights_file(ref)
    return check_sha256(path, file_sha256(path), expected)


def check_sha256(path: Path, found: str, expected: str | None) -> str:
    """Returns the sha256 found in a file of weights.

    Raises:
        WeightsError: Another one is expected.
    """
    if expected not in (None, found):
        raise WeightsError(
            f"{path}: its sha256 is {found}, not {expected} as written after {_HASH}",
            hint="the file is damaged or another one than meant: fetch it again, or correct the hash",
        )
    return found


def step_settings(config: Settings, step: str, steps: Iterable[str], stage_key: StageKey | None = None) -> dict[str, Any]:
    """Returns the settings that one step of a stage depends on, ready for its key.

    Args:
        config: The plugin's settings.
        step: Name of the step, for example ``"fit"``.
        steps: Names of all steps of the stage.
        stage_key: Gives the key of the training that ``stage:NAME`` stands for; called for each such setting of the step.

    Returns:
        JSON-ready settings; ``file:PATH`` becomes ``file-sha256:…`` so that moving a file changes nothing, ``stage:NAME``
        becomes ``stage-key:…`` so that it counts as what it was made of, not by its name.

    Raises:
        PluginError: A setting is marked for a step that the stage does not have, and would be in no key at all.
    """
    known = {step, *steps}
    others = {
        name
        for name, field in type(config).model_fields.items()
        if name in known and name != step and not _only_for(field) and _holds_settings(field.annotation)
    }
    return _keyed(config, step, known, stage_key, others)


def _keyed(
    config: Settings, step: str, known: set[str], stage_key: StageKey | None, others: Set[str] = frozenset()
) -> dict[str, Any]:
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
        if name in others or any(isinstance(mark, _NoEffect) for mark in marks) or (only and step not in only):
            continue
        files = any(isinstance(mark, _FileContents) for mark in marks)
        paths = any(isinstance(mark, _PathContents) for mark in marks)

        def value_of(value: Any, plain: Any, files: bool = files, paths: bool = paths) -> Any:
            if isinstance(value, Settings):
                return _keyed(value, step, known, stage_key)
            if isinstance(value, list | tuple) and isinstance(plain, list) and len(value) == len(plain):
                return [value_of(*pair) for pair in zip(value, plain, strict=True)]
            if isinstance(value, Mapping) and isinstance(plain, dict) and len(value) == len(plain):
                return {key: value_of(*pair) for key, *pair in zip(plain, value.values(), plain.values(), strict=True)}
            if isinstance(value, Set) and isinstance(plain, list):
                return sorted(plain, key=repr)
            if paths and isinstance(value, str):
                return "contents-sha256:" + _contents_sha256(value)
            if files and isinstance(value, str) and value.startswith("file:"):
                return "file-sha256:" + _checked_sha256(value)
            if files and isinstance(value, str) and value.startswith(_STAGE) and stage_key is not None:
                return "stage-key:" + stage_key(value.removeprefix(_STAGE))
            return plain

        result[name] = value_of(getattr(config, name), dumped[name])
    return result


def weight_paths(config: Settings) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yields where settings name weights, and which: those of sub-models, lists and mappings too."""
    for name, field in type(config).model_fields.items():
        files = any(isinstance(mark, _FileContents) for mark in _marks(field))
        pending: list[tuple[tuple[str | int, ...], Any]] = [((name,), getattr(config, name))]
        while pending:
            path, value = pending.pop(0)
            if isinstance(value, Settings):
                yield from (((*path, *inner), ref) for inner, ref in weight_paths(value))
            elif isinstance(value, Mapping):
                pending += [((*path, key), item) for key, item in value.items()]
            elif isinstance(value, list | tuple):
                pending += [((*path, index), item) for index, item in enumerate(value)]
            elif isinstance(value, str) and files:
                yield path, value


def weight_refs(config: Settings) -> Iterator[str]:
    """Yields the weights that settings name, for example ``timm:NAME``; those of sub-models too."""
    return (ref for _, ref in weight_paths(config))


def stage_of(ref: str) -> str | None:
    """Returns the id of the stage that a reference to weights names (``stage:NAME``), or None."""
    return ref.removeprefix(_STAGE) if ref.startswith(_STAGE) else None


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
