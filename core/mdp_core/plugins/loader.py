"""The plugin host: finds plugins, isolates broken ones, refuses ambiguous ones, and makes instances.

pluggy's own entry-point loader stops at the first plugin that fails to import and drops a second plugin of one name in
silence, so plugins are listed from metadata and loaded one by one here; pluggy still checks and calls the hooks.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from mdp_core import __version__
from mdp_core.errors import MdpError, ObserverWarning, PluginError
from mdp_core.plugins.hookspecs import Hooks, Tracking, WeightsInfo
from mdp_core.plugins.registry_file import RegistryFile, load_registry_file
from mdp_core.plugins.version import API_VERSION
from mdp_core.settings import StageConfig, file_sha256

KINDS = ("dataset", "pretrainer", "prior", "clusterer", "detector", "refiner", "segmenter", "probe", "executor", "observer")
GROUP = "mdp"
_WEIGHTS_HOOKS = ("mdp_describe_weights", "mdp_fetch_weights", "mdp_list_weights")


@dataclass(frozen=True)
class Plugin:
    """One registered plugin.

    Attributes:
        distribution: Name of the installed package, or the file of a one-file plugin.
        content: sha256 of a one-file plugin, which is part of its keys (it is edited, never versioned); empty otherwise.
    """

    kind: str
    name: str
    factory: str
    config: str | None
    summary: str
    api: int
    distribution: str
    version: str
    content: str = ""

    @property
    def identity(self) -> str:
        """What stands for the plugin's code in a key, beside its ``cache_version``."""
        return f"file-sha256:{self.content}" if self.content else self.distribution


@dataclass(frozen=True)
class Broken:
    """A plugin module that could not be loaded."""

    entry_point: str
    distribution: str
    version: str
    error: str


@dataclass
class _Registrar:
    """The ``registry`` argument of ``mdp_register``, bound to one module."""

    module: str
    distribution: str
    version: str
    content: str = ""
    plugins: list[Plugin] = field(default_factory=list)

    def add(
        self, kind: str, name: str, *, factory: str, config: str | None = None, summary: str = "", api: int = API_VERSION
    ) -> None:
        if kind not in KINDS:
            close = difflib.get_close_matches(kind, KINDS, 1)
            raise PluginError(
                f"registry.add: no kind {kind!r}" + (f", did you mean {close[0]!r}?" if close else ""),
                hint=f"kinds: {', '.join(KINDS)}",
            )
        full = [f"{self.module}{ref}" if ref and ref.startswith(":") else ref for ref in (factory, config)]
        self.plugins.append(
            Plugin(kind, name, str(full[0]), full[1], summary, api, self.distribution, self.version, self.content)
        )


class PluginHost:
    """All plugins of this process.

    Args:
        registry: Contents of registry.yaml.
        files: Further one-file plugins.
    """

    def __init__(self, registry: RegistryFile, files: Sequence[Path] = ()) -> None:
        self.registry = registry
        self.files = tuple(dict.fromkeys([*registry.files, *(Path(f).resolve() for f in files)]))
        self.plugins: dict[tuple[str, str], Plugin] = {}
        self.broken: list[Broken] = []
        self.conflicts: list[str] = []
        self._manager = pluggy.PluginManager("mdp")
        self._manager.add_hookspecs(Hooks)
        self._load("mdp_core", "mdp-platform", __version__, lambda: importlib.import_module("mdp_core.executors.plugin"))
        for entry_point in self._entry_points():
            distribution = entry_point.dist
            self._load(
                entry_point.name,
                distribution.name if distribution else "unknown",
                distribution.version if distribution else "?",
                entry_point.load,
            )
        for path in self.files:
            self._load(path.name, str(path), "file", lambda path=path: _load_file(path), path=path)

    def _entry_points(self) -> list[importlib.metadata.EntryPoint]:
        only = os.environ.get("MDP_PLUGINS")
        wanted = None if only is None else {name.strip() for name in only.split(",")}
        found = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda e: (e.name, e.value))
        unique = {(e.name, e.value, e.dist.name if e.dist else ""): e for e in found}
        off = set(self.registry.disabled)
        return [
            e
            for e in unique.values()
            if (wanted is None or e.name in wanted) and e.name not in off and (e.dist is None or e.dist.name not in off)
        ]

    def _load(self, name: str, distribution: str, version: str, load: Any, path: Path | None = None) -> None:
        """Loads one module and lets it register; whatever it raises makes it broken, not us."""
        module: ModuleType | None = None
        try:
            module = load()
            registrar = _Registrar(module.__name__, distribution, version, file_sha256(path) if path else "")
            others = self._manager.get_plugins()
            self._check_hooks(module)
            self._manager.register(module, name=f"{name} ({distribution})")
            self._manager.subset_hook_caller("mdp_register", others)(registry=registrar)
            if not registrar.plugins and not any(hasattr(module, hook) for hook in _WEIGHTS_HOOKS):
                raise PluginError("it registers nothing", hint="implement mdp_register(registry) with @hookimpl")
        except Exception as error:
            if module is not None and self._manager.is_registered(module):
                self._manager.unregister(module)
            text = error.message if isinstance(error, MdpError) else f"{type(error).__name__}: {error}"
            self.broken.append(Broken(name, distribution, version, text))
            return
        for plugin in registrar.plugins:
            self._admit(plugin)

    def _check_hooks(self, module: ModuleType) -> None:
        for hook in vars(module):
            is_hook = getattr(getattr(module, hook), "mdp_impl", None) is not None
            if is_hook and not hasattr(Hooks, hook):
                close = difflib.get_close_matches(hook, [h for h in dir(Hooks) if h.startswith("mdp_")], 1)
                raise PluginError(f"unknown hook {hook}" + (f", did you mean {close[0]}?" if close else ""))
            if is_hook and (strange := _arguments(getattr(module, hook)) - _arguments(getattr(Hooks, hook))):
                takes = ", ".join(sorted(_arguments(getattr(Hooks, hook))))
                raise PluginError(f"hook {hook} has an argument {' and '.join(sorted(strange))}, but it is given {takes}")

    def _admit(self, plugin: Plugin) -> None:
        slot = f"{plugin.kind}:{plugin.name}"
        if plugin.api not in (API_VERSION, API_VERSION - 1):
            remedy = (
                f"change it to API {API_VERSION}, then its registry.add(…, api={API_VERSION})"
                if plugin.content
                else f"install a version of {plugin.distribution} for API {API_VERSION}, or switch it off in registry.yaml: "
                f"disabled: [{plugin.distribution}]"
            )
            self.conflicts.append(
                f"{slot} from {_origin(plugin)} is written for plugin API {plugin.api}, this mdp has {API_VERSION}: {remedy}"
            )
            return
        first = self.plugins.get((plugin.kind, plugin.name))
        pin = self.registry.pins.get(slot)
        if pin is not None and plugin.distribution != pin:
            return
        if first is not None and pin is None:
            self.conflicts.append(
                f"two plugins are named {slot}: from {_origin(first)} and from {_origin(plugin)}: "
                f'{"give yours another name" if plugin.content else "uninstall one"}, or choose in registry.yaml: pins: {{"{slot}": {first.distribution}}}'
            )
            return
        self.plugins[plugin.kind, plugin.name] = plugin

    def check(self) -> None:
        """Raises for what no command that runs recipes may pass over.

        Raises:
            PluginError: Two plugins of one name, another API version; or, with ``MDP_STRICT_PLUGINS=1``, a broken plugin.
        """
        problems = list(self.conflicts)
        if os.environ.get("MDP_STRICT_PLUGINS") == "1":
            problems += [f"{b.entry_point} from {b.distribution} {b.version} is broken: {b.error}" for b in self.broken]
        if problems:
            raise PluginError("\n".join(problems))
        for b in self.broken:
            if b.version == "file":
                raise PluginError(f"{b.distribution}: cannot be used as a plugin: {b.error}")

    def describe_weights(self, ref: str) -> WeightsInfo:
        """Returns what the plugins know of weights.

        Raises:
            WeightsError: There are no such weights.
            PluginError: No plugin knows weights of this kind, or the one that does is broken.
        """
        return self._about_weights("mdp_describe_weights", ref)

    def fetch_weights(self, ref: str) -> WeightsInfo:
        """Downloads weights that are not here, and describes them.

        Raises:
            WeightsError: There are no such weights, or they cannot be fetched.
            PluginError: As in ``describe_weights``.
        """
        return self._about_weights("mdp_fetch_weights", ref)

    def list_weights(self) -> list[WeightsInfo]:
        """Returns the built-in weights and those that were downloaded."""
        found = self._call("mdp_list_weights")
        return sorted((info for infos in found for info in infos), key=lambda info: info.ref)

    def run_tracking(self, folder: Path, home: Path) -> list[Tracking]:
        """Returns what each tracker has of a run."""
        return list(self._call("mdp_run_tracking", folder=folder, home=home))

    def sync_run(self, folder: Path, home: Path, *, force: bool = False) -> list[Tracking]:
        """Lets each tracker send what it does not have of a run.

        Raises:
            MdpError: It cannot be sent.
        """
        return list(self._call("mdp_sync_run", folder=folder, home=home, force=force))

    def _about_weights(self, hook: str, ref: str) -> WeightsInfo:
        info = self._call(hook, ref=ref)
        if info is None:
            broken = "; ".join(f"{b.entry_point} is broken: {b.error}" for b in self.broken)
            raise PluginError(f"no plugin knows weights like {ref}", hint=broken or None)
        if not isinstance(info, WeightsInfo):
            raise PluginError(f"{hook}: a plugin returned {type(info).__name__}, not WeightsInfo")
        return info

    def _call(self, hook: str, **arguments: Any) -> Any:
        """Calls a hook of the plugins' modules; what it raises that is not for people is a broken plugin's."""
        try:
            return getattr(self._manager.hook, hook)(**arguments)
        except MdpError:
            raise
        except Exception as error:
            raise PluginError(f"{hook}{tuple(arguments.values())} failed ({type(error).__name__}: {error})") from error

    def names(self, kind: str) -> list[str]:
        """Returns the names of a kind's plugins, sorted."""
        return sorted(name for k, name in self.plugins if k == kind)

    def resolve_alias(self, kind: str, name: str) -> str:
        """Returns the plugin name that an alias of registry.yaml stands for, or the name itself."""
        return self.registry.aliases.get(kind, {}).get(name, name)

    def default(self, kind: str) -> str | None:
        """Returns the plugin of a kind where a recipe names none."""
        return self.registry.defaults.get(kind)

    def plugin(self, kind: str, name: str) -> Plugin:
        """Returns a plugin's registration.

        Raises:
            PluginError: No such plugin; says which there are, which is close, and which broken module may be the cause.
        """
        found = self.plugins.get((kind, self.resolve_alias(kind, name)))
        if found:
            return found
        names = self.names(kind)
        close = difflib.get_close_matches(name, names, 1)
        hint = f"there are: {', '.join(names) or 'none'}"
        if others := [k for k in KINDS if (k, self.resolve_alias(k, name)) in self.plugins]:
            hint = f"{name!r} is {' and '.join(_a(k) for k in others)}; {hint}"
        if self.broken:
            hint += "; broken plugins: " + "; ".join(f"{b.entry_point} from {b.distribution} ({b.error})" for b in self.broken)
        raise PluginError(f"no {kind} named {name!r}" + (f", did you mean {close[0]!r}?" if close else ""), hint=hint)

    def config(self, kind: str, name: str) -> type[StageConfig]:
        """Returns the settings model of a plugin (importing its settings module only, where it has one).

        Raises:
            PluginError: Unknown plugin, or its module cannot be imported or holds no such class.
        """
        plugin = self.plugin(kind, name)
        if plugin.config is None:
            config = getattr(self._import(plugin, plugin.factory), "Config", None)
        else:
            config = self._import(plugin, plugin.config)
        if not (isinstance(config, type) and issubclass(config, StageConfig)):
            raise PluginError(f"{kind}:{name} from {plugin.distribution}: its settings are not a StageConfig: {config!r}")
        return config

    def factory(self, kind: str, name: str) -> Any:
        """Imports and returns a plugin's class.

        Raises:
            PluginError: Unknown plugin, or its module cannot be imported.
        """
        plugin = self.plugin(kind, name)
        return self._import(plugin, plugin.factory)

    def create(self, kind: str, name: str, settings: Mapping[str, Any], context: Any) -> Any:
        """Makes an instance of a plugin from JSON-ready settings."""
        return self.factory(kind, name)(self.config(kind, name).model_validate(dict(settings)), context)

    def _import(self, plugin: Plugin, reference: str) -> Any:
        module, _, attribute = reference.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except Exception as error:
            raise PluginError(
                f"{plugin.kind}:{plugin.name} from {_origin(plugin)}: {reference} cannot be imported "
                f"({type(error).__name__}: {error})",
                hint="`mdp doctor` shows what is installed",
            ) from error


class Observers:
    """Calls the observers' hooks; one that raises is warned about and switched off."""

    def __init__(self, observers: Iterable[object]) -> None:
        self._manager = pluggy.PluginManager("mdp")
        self._manager.add_hookspecs(Hooks)
        self._order = list(observers)
        for observer in self._order:
            self._manager.register(observer)

    def call(self, hook: str, **arguments: Any) -> None:
        """Calls one hook on every observer, in order.

        Raises:
            KeyboardInterrupt: The person's wish goes through; everything else an observer raises becomes a warning.
        """
        for observer in list(self._order):
            others = [o for o in self._order if o is not observer]
            try:
                self._manager.subset_hook_caller(hook, others)(**arguments)
            except Exception as error:
                self._order.remove(observer)
                self._manager.unregister(observer)
                warnings.warn(
                    f"{type(observer).__name__} failed in {hook} ({type(error).__name__}: {error}); it is off for the rest of this run",
                    ObserverWarning,
                    stacklevel=2,
                )


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise PluginError("it is a folder; name the Python file in it" if path.is_dir() else "no such plugin file")
    name = f"mdp_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError("it is not a Python file (its name has to end in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _arguments(hook: Any) -> set[str]:
    return set(inspect.signature(hook).parameters) - {"self"}


def _origin(plugin: Plugin) -> str:
    return plugin.distribution if plugin.content else f"{plugin.distribution} {plugin.version}"


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def load_plugins(files: Sequence[Path] = ()) -> PluginHost:
    """Returns the host with all installed plugins, those of registry.yaml and ``files``."""
    return PluginHost(load_registry_file(), files)
