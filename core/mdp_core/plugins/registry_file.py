"""registry.yaml: which plugins are on, defaults, aliases, pins and one-file plugins."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from mdp_core.errors import PluginError
from mdp_core.settings import Settings

SHIPPED = Path(__file__).resolve().parents[1] / "_shipped" / "registry.yaml"
CHECKOUT = Path(__file__).resolve().parents[3] / "registry.yaml"


class RegistryFile(Settings):
    """Contents of registry.yaml."""

    version: Literal[1] = 1
    """Format of this file."""
    defaults: dict[str, str] = Field(default_factory=dict)
    """Kind → plugin used where a recipe gives no ``use:``."""
    observers: tuple[str, ...] = ()
    """Observers of every run, in the order of their calls."""
    aliases: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Kind → alias → plugin name."""
    pins: dict[str, str] = Field(default_factory=dict)
    """``kind:name`` → the distribution that fills it where two offer it."""
    disabled: tuple[str, ...] = ()
    """Distributions or entry points that are not loaded."""
    files: tuple[Path, ...] = ()
    """Plugins in single files; absolute after loading."""


def load_registry_file() -> RegistryFile:
    """Reads the shipped registry.yaml and lays the user's over it (``$MDP_REGISTRY``, or ``./registry.yaml``).

    Raises:
        PluginError: A file is missing or malformed; the message names it and what is wrong.
    """
    base = _read(SHIPPED if SHIPPED.is_file() else CHECKOUT)
    named = os.environ.get("MDP_REGISTRY")
    own = Path(named) if named else Path("registry.yaml")
    if named and not own.is_file():
        raise PluginError(f"MDP_REGISTRY names {own}, which does not exist", hint="correct it, or unset MDP_REGISTRY")
    if not own.is_file() or own.resolve() == CHECKOUT.resolve():
        return _validate(base, CHECKOUT)
    extra = _read(own)
    _validate(extra, own)
    merged = {**base, **extra}
    for name in ("defaults", "aliases", "pins"):
        merged[name] = {**base.get(name, {}), **extra.get(name, {})}
    return _validate(merged, own)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PluginError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise PluginError(f"{path}: cannot be read: it is not UTF-8 text") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise PluginError(f"{place}: not YAML: {getattr(error, 'problem', None) or error}") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise PluginError(f"{path}: a registry is a mapping of settings, not a {type(content).__name__}")
    content["files"] = [str((path.parent / name).resolve()) for name in content.get("files") or []]
    return content


def _validate(content: dict[str, Any], path: Path) -> RegistryFile:
    try:
        return RegistryFile.model_validate(content)
    except ValidationError as error:
        lines = [f"{path}: {'.'.join(map(str, e['loc']))}: {_sentence(e)}" for e in error.errors()]
        raise PluginError("\n".join(lines), hint=f"settings of a registry: {', '.join(RegistryFile.model_fields)}") from error


_EXPECTED = {
    "tuple_type": "expected a list such as [mlflow]",
    "dict_type": "expected a mapping such as {prior: dino-affinity}",
    "string_type": "expected a text",
    "literal_error": "expected 1: this mdp reads no other format",
}


def _sentence(error: ErrorDetails) -> str:
    """Says in plain words what pydantic found."""
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(error["loc"][-1]), RegistryFile.model_fields, 1)
        return "unknown setting" + (f", did you mean {close[0]!r}?" if close else "")
    words = _EXPECTED.get(error["type"], error["msg"])
    return f"{words}, got {error['input']!r}"
