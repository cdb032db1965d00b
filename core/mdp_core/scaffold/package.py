"""Writes the package of a new plugin, from a template or from a plugin that is there."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mdp_core import __version__
from mdp_core.errors import PluginError
from mdp_core.plugins.loader import KINDS, Plugin, PluginHost
from mdp_core.plugins.version import API_VERSION
from mdp_core.recipe.problems import did_you_mean
from mdp_core.recipe.show import inline
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
    """A package that was written: its folder, its files relative to that, the names in it, and how a recipe can use it."""

    folder: Path
    files: tuple[Path, ...]
    names: Names
    kind: str
    run: str


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
    """What a package is made of: its method and settings (None: the kind's templates), and what follows from them.

    ``settings`` are those of its tests, over the trial settings of its own; ``recipe`` those that the README puts into a recipe.
    """

    summary: str
    platform: str
    dependencies: tuple[str, ...]
    settings: Mapping[str, Any]
    recipe: Mapping[str, Any]
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
        settings: Settings that the tests of the new package use, over those that the plugin has for trials.

    Raises:
        PluginError: The name or the folder is taken, or there is no such plugin.
    """
    names = check_name(name, kind, host)
    folder = into / names.distribution
    check_folder(folder)
    if start is None:
        made = _Start(_SUMMARIES[kind], _any_of_this_api(), _DEPENDENCIES[kind], settings or {}, settings or {})
    else:
        made = _from(host, host.plugin(kind, start.rpartition(":")[2]), names, settings or {})
    run = _run(names, kind, made.recipe)
    rendered = dict(_rendered(names, kind, made, run))
    for path, text in rendered.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return Written(folder, tuple(sorted(rendered)), names, kind, run)


def _run(names: Names, kind: str, settings: Mapping[str, Any]) -> str:
    """Returns the command that puts a new plugin into the quickstart."""
    options = " ".join(f"--set {option}" for option in _options({"use": names.plugin, **settings}, f"{kind}."))
    return f"mdp run quickstart {options} --until {kind}"


def _from(host: PluginHost, plugin: Plugin, names: Names, settings: Mapping[str, Any]) -> _Start:
    """Starts from a copy of a plugin's method and settings."""
    config = host.config(plugin.kind, plugin.name)
    check_required(config, f"{plugin.kind}:{plugin.name}", settings)
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
        settings,
        recipe_options(config, plugin.kind, settings),
        origin,
        copy,
    )


def _rendered(names: Names, kind: str, made: _Start, run: str) -> Iterator[tuple[Path, str]]:
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
        "run": run,
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


def recipe_options(config: type[StageConfig], kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings with which a copy of a plugin can stand in a recipe anywhere.

    Trainings take what makes them short; of others it is the weights that count, since a recipe has sizes of its own.

    Args:
        config: The plugin's settings class.
        kind: Its kind.
        settings: What was said with ``--set``.
    """
    if kind in ("detector", "segmenter"):
        return config.trial_settings(settings)
    chosen = settings
    if config.trial:
        for path, ref in weight_paths(config.model_validate(config.trial_settings(settings))):
            chosen = _with(chosen, tuple(map(str, path)), ref)
    return dict(chosen)


def check_required(config: type[StageConfig], slot: str, settings: Mapping[str, Any]) -> None:
    """Refuses to copy a plugin whose tests would lack a setting.

    Raises:
        PluginError: There are settings without a default, and no value for them.
    """
    needed = [name for name, field in config.model_fields.items() if field.is_required()]
    if missing := [name for name in needed if name not in {**config.trial, **settings}]:
        raise PluginError(
            f"{slot} needs the setting {' and '.join(missing)}, and so do the tests of a copy of it",
            hint=" ".join(f"--set {name}=…" for name in missing),
        )


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


def _options(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns settings as a shell gives them to ``--set``, one a top-level setting."""
    options = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and len(value) == 1:
            options += _options(value, f"{prefix}{key}.")
        else:
            options.append(shlex.quote(f"{prefix}{key}={value if isinstance(value, str) else inline(value)}"))
    return options


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
