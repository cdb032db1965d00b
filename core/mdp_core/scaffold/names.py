"""What a new package may be called, and what follows from its name."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import keyword
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import mdp_core.api
from mdp_core.errors import PluginError
from mdp_core.plugins.loader import PluginHost

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Names:
    """The names of a new package.

    Attributes:
        distribution: What pip calls it, also the name of its folder.
        plugin: What a recipe calls it: the same, without ``mdp-``.
        module: The Python package.
        method: The class of the method.
        config: The class of its settings.
    """

    distribution: str
    plugin: str
    module: str
    method: str
    config: str


def check_name(name: str, kind: str, host: PluginHost) -> Names:
    """Returns the names that follow from ``name``.

    Raises:
        PluginError: It is not a name for a package (PEP 508) and a Python module, or it is taken.
    """
    if not _NAME.fullmatch(name):
        better = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()).strip("-0123456789")
        raise PluginError(
            f"{name!r} is not a name for a package: lower-case letters, digits and single dashes, a letter first"
            + (f", did you mean {better!r}?" if _NAME.fullmatch(better) else ""),
            hint="for example: mdp plugins new colour-prior --kind prior",
        )
    plugin, module = name.removeprefix("mdp-"), name.replace("-", "_")
    if not _NAME.fullmatch(plugin) or keyword.iskeyword(module) or module in sys.stdlib_module_names:
        raise PluginError(f"{name!r} is a word of Python: import {module} means something else", hint=f"try {name}-{kind}")
    _check_free(name, plugin, module, kind, host)
    method = "".join(part.capitalize() for part in plugin.split("-"))
    method = f"{method}Method" if method in mdp_core.api.__all__ else method
    return Names(name, plugin, module, method, f"{method}Config")


def check_folder(folder: Path) -> None:
    """Raises PluginError where a package cannot be written to ``folder`` without touching what is there."""
    if folder.is_dir() and any(folder.iterdir()):
        raise PluginError(f"{folder} exists and is not empty", hint="give another name, or another folder with --into")
    if folder.exists() and not folder.is_dir():
        raise PluginError(f"{folder} is a file", hint="give another name, or another folder with --into")


def _check_free(name: str, plugin: str, module: str, kind: str, host: PluginHost) -> None:
    taken = host.plugins.get((kind, host.resolve_alias(kind, plugin)))
    if taken is not None:
        raise PluginError(
            f"there is a {kind} named {plugin!r} already, from {taken.distribution} {taken.version}",
            hint=f"give yours another name, for example my-{plugin}; to start from it: mdp plugins new my-{plugin} --from {kind}:{plugin}",
        )
    if _installed(name):
        raise PluginError(f"a package named {name!r} is installed: yours would replace it", hint=f"try my-{name}")
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.origin is not None:
        raise PluginError(f"import {module} finds {spec.origin} already", hint=f"give another name, for example my-{name}")


def _installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
