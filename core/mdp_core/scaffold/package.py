"""Writes the package of a new plugin, from a template or from a plugin that is there."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import ValidationError

from mdp_core import __version__
from mdp_core.errors import MdpError, PluginError
from mdp_core.plugins.loader import KINDS, Plugin, PluginHost
from mdp_core.plugins.version import API_VERSION
from mdp_core.recipe.problems import did_you_mean
from mdp_core.scaffold.names import Names, check_folder, check_name
from mdp_core.scaffold.source import Copied, copied
from mdp_core.settings import StageConfig, weight_paths

TEMPLATES = Path(__file__).parent / "templates"
TEMPLATED = ("prior", "clusterer", "detector", "refiner", "segmenter")
"""Kinds that there are templates for."""
_SUMMARIES = {
    "prior": "What differs in colour from the border of the image",
    "clusterer": "k-means on the colour histograms of the masks",
    "detector": "Naive Bayes on colours, connected pixels are an object",
    "refiner": "Keeps confident masks, without their thin parts and their holes",
    "segmenter": "Naive Bayes on colours, with evidence that neighbours share",
}
_DEPENDENCIES = {
    "prior": ("numpy", "scikit-image"),
    "clusterer": ("numpy", "scipy"),
    "detector": ("numpy", "safetensors", "scikit-image"),
    "refiner": ("numpy", "scikit-image", "scipy"),
    "segmenter": ("numpy", "safetensors", "scipy"),
}
_SHORT = {"iters": 2, "warmup": 0, "workers": 0, "clusters": 2, "batch": 2, "checkpoint_every": 1, "short_side": 64}
"""Settings by name, and the values that make tests short."""


@dataclass(frozen=True)
class Origin:
    """The plugin that a new one starts from.

    Attributes:
        private: Packages that the copy imports and that are not part of the stable API.
    """

    kind: str
    name: str
    factory: str
    distribution: str
    version: str
    licence: str
    private: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """A package that was written: its folder, its files relative to that, the names in it, the settings of its tests."""

    folder: Path
    files: tuple[Path, ...]
    names: Names
    kind: str
    settings: Mapping[str, Any]
    copy: bool

    @property
    def run_options(self) -> list[str]:
        """Options of ``mdp run`` that put the plugin into a recipe, with the settings that not only make tests short."""
        options = [f"use={self.names.plugin}", *_options(self.settings, short=False)]
        return [part for option in options for part in ("--set", f"{self.kind}.{option}")]


def kind_of(host: PluginHost, kind: str | None, start: str | None) -> str:
    """Returns the kind of the new plugin, from ``--kind`` or from the plugin it starts from.

    Raises:
        PluginError: It cannot be told, or there is no template for it.
    """
    if start is not None:
        wanted, _, bare = start.rpartition(":")
        kinds = [k for k in KINDS if host.resolve_alias(k, bare) in host.names(k) and wanted in ("", k)]
        if kind is None and len(kinds) > 1:
            raise PluginError(f"--from {start}: there is one of each kind {', '.join(kinds)}", hint=f"say --kind {kinds[0]}")
        kind = kind or (kinds[0] if kinds else wanted or "prior")
    if kind is None:
        raise PluginError("which kind of plugin?", hint=f"say --kind: {', '.join(TEMPLATED)}")
    if kind not in KINDS:
        raise PluginError(f"--kind {kind}: no such kind{did_you_mean(kind, KINDS)}", hint=f"kinds: {', '.join(TEMPLATED)}")
    if kind not in TEMPLATED:
        raise PluginError(
            f"--kind {kind}: there is no template for this kind", hint=f"there are templates for {', '.join(TEMPLATED)}"
        )
    return kind


@dataclass(frozen=True)
class _Start:
    """What a package is made of: its method and settings (None: the kind's templates), and what follows from them."""

    summary: str
    platform: str
    dependencies: tuple[str, ...]
    settings: Mapping[str, Any]
    origin: Origin | None = None
    copy: Copied | None = None


def new_package(
    host: PluginHost,
    name: str,
    kind: str,
    into: Path,
    start: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Written:
    """Writes a package that can be installed and passes its tests.

    Args:
        host: What is installed.
        name: Name of the package and its folder.
        kind: One of ``TEMPLATED``.
        into: Where the folder is made.
        start: Name of the plugin to start from; by default the kind's template.
        settings: Settings that the tests of the new package use; by default what ``trial_settings`` says.

    Raises:
        PluginError: The name or the folder is taken, or there is no such plugin.
    """
    names = check_name(name, kind, host)
    folder = into / names.distribution
    check_folder(folder)
    if start is None:
        made = _Start(_SUMMARIES[kind], _any_of_this_api(), _DEPENDENCIES[kind], settings or {})
    else:
        made = _from(host, host.plugin(kind, start.rpartition(":")[2]), names, settings)
    rendered = dict(_rendered(names, kind, made))
    for path, text in rendered.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return Written(folder, tuple(sorted(rendered)), names, kind, made.settings, start is not None)


def _from(host: PluginHost, plugin: Plugin, names: Names, settings: Mapping[str, Any] | None) -> _Start:
    """Starts from a copy of a plugin's method and settings."""
    config = host.config(plugin.kind, plugin.name)
    _, _, method = plugin.factory.partition(":")
    there = f"{config.__module__}:{config.__name__}"
    origin_of = plugin.distribution if not plugin.content else Path(plugin.distribution).name
    header = f"# Started as a copy of {plugin.kind} {plugin.name} of {origin_of} {plugin.version}; see LICENSE.\n"
    renames = {method: names.method, config.__name__: names.config}
    copy = copied(plugin.factory, there, renames, names.module, header, {plugin.name: names.plugin})
    tops = {module.partition(".")[0] for module in copy.imports - {"mdp_core.api"}} - {names.module}
    own = plugin.factory.partition(".")[0]
    private = tuple(sorted(top for top in tops if top.startswith("mdp_") or top == own))
    origin = Origin(plugin.kind, plugin.name, plugin.factory, origin_of, plugin.version, _licence(plugin), private)
    foreign = not plugin.content and plugin.distribution != "mdp-platform"
    return _Start(
        f"A variant of {plugin.name}",
        f">={__version__},<{_next_minor()}" if private else _any_of_this_api(),
        (f"{plugin.distribution}=={plugin.version}",) if foreign else (),
        trial_settings(host, plugin) if settings is None else settings,
        origin,
        copy,
    )


def _rendered(names: Names, kind: str, made: _Start) -> Iterator[tuple[Path, str]]:
    """Yields the files of a package, relative to its folder, with their text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters["python"] = _python
    environment.filters["lower_first"] = lambda text: text[:1].lower() + text[1:]
    facts = {
        **vars(names),
        **vars(made),
        "name": names.distribution,
        "cls": names.method,
        "kind": kind,
        "api": API_VERSION,
        "year": datetime.now(UTC).year,
        "options": _options(made.settings),
        "run_options": _options(made.settings, short=False),
    }
    source, tests = f"src/{names.module}", "tests"
    templates = {
        "pyproject.toml": "common/pyproject.toml",
        "README.md": "common/README.md",
        "LICENSE": "common/LICENSE",
        ".gitignore": "common/gitignore",
        f"{source}/__init__.py": "common/init.py",
        f"{source}/plugin.py": "common/plugin.py",
        f"{tests}/test_conformance.py": "common/test_conformance.py",
    }
    if made.copy is None:
        templates |= {f"{source}/{file}": f"{kind}/{file}" for file in ("settings.py", "method.py")}
        templates[f"{tests}/test_method.py"] = f"{kind}/test_method.py"
    else:
        yield Path(source, "method.py"), made.copy.method
        yield Path(source, "settings.py"), made.copy.settings
        if made.origin is not None and made.origin.version != "file":
            templates[f"{tests}/test_method.py"] = "common/test_copy.py"
    for path, template in templates.items():
        yield Path(path), environment.get_template(f"{template}.j2").render(facts)


def trial_settings(host: PluginHost, plugin: Plugin) -> dict[str, Any]:
    """Returns settings with which a plugin can be tried anywhere: weights that come with mdp, and short trainings.

    They are a guess that the author of the new package corrects in its tests.

    Raises:
        PluginError: It has settings without a default.
    """
    config = host.config(plugin.kind, plugin.name)
    chosen: dict[str, Any] = {}
    built_in = [info.ref for info in host.list_weights() if info.ref.startswith("builtin:") and info.path is not None]
    if needed := [name for name, field in config.model_fields.items() if field.is_required()]:
        raise PluginError(
            f"{plugin.kind}:{plugin.name} needs the setting {' and '.join(needed)}, and so do the tests of a copy of it",
            hint=" ".join(f"--set {name}=…" for name in needed),
        )
    for path, ref in weight_paths(config()):
        keys = tuple(map(str, path))
        if not _here(host, ref):
            chosen = next(
                (made for value in (None, *built_in[:1]) if _valid(config, made := _with(chosen, keys, value))), chosen
            )
    for dotted, value in _flat(config().model_dump(mode="json")):
        name = dotted.rpartition(".")[2]
        if name in _SHORT and value.isdigit() and int(value) > _SHORT[name]:
            chosen = _with(chosen, tuple(dotted.split(".")), _SHORT[name])
    return chosen


def _valid(config: type[StageConfig], settings: Mapping[str, Any]) -> bool:
    try:
        config.model_validate(settings)
    except ValidationError:
        return False
    return True


def parse_settings(texts: Iterable[str]) -> dict[str, Any] | None:
    """Returns the settings of ``--set key=value``, dotted keys for those of sub-models; None where there are none.

    Raises:
        PluginError: One is not of this form.
    """
    chosen: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise PluginError(f"--set {text}: expected key=value", hint="for example --set weights=builtin:tiny")
        chosen = _with(chosen, tuple(key.split(".")), yaml.safe_load(value))
    return chosen or None


def _python(value: Any) -> str:
    """Returns a value as Python writes it, with double quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_python(key)}: {_python(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_python, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _with(settings: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Returns settings with one more, those of sub-models as mappings."""
    inner = value if len(path) == 1 else _with(settings.get(path[0], {}), path[1:], value)
    return {**settings, path[0]: inner}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields dotted keys and their values as a command line writes them."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def _options(settings: Mapping[str, Any], *, short: bool = True) -> list[str]:
    """Returns settings as ``--set`` takes them; without ``short``, those that only make tests short are left out."""
    return [f"{key}={value}" for key, value in _flat(settings) if short or key.rpartition(".")[2] not in _SHORT]


def _here(host: PluginHost, ref: str) -> bool:
    try:
        return host.describe_weights(ref).here
    except MdpError:
        return False


def _licence(plugin: Plugin) -> str:
    if plugin.content:
        return "yours"
    facts = importlib.metadata.metadata(plugin.distribution)
    said = (facts[field] for field in ("License-Expression", "License") if field in facts)
    return next(said, "not said, ask its authors")


def _any_of_this_api() -> str:
    """The versions of mdp-platform that have this API: it is raised at most once within a major version (docs/plugins/api.md)."""
    major, minor, *_ = __version__.split(".")
    return f">={major}.{minor},<{int(major) + 1}"


def _next_minor() -> str:
    major, minor, *_ = __version__.split(".")
    return f"{major}.{int(minor) + 1}"
