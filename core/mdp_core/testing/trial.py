"""One plugin under test: what the checks share, so that a training is not repeated for each of them."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import tempfile
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mdp_core.errors import MdpError, PluginError
from mdp_core.plugins.loader import KINDS, Plugin, PluginHost, load_plugins
from mdp_core.plugins.settings_docs import describe
from mdp_core.recipe.problems import did_you_mean
from mdp_core.settings import StageConfig
from mdp_core.stages.base import Context, Listener, Silence
from mdp_core.testing import work
from mdp_core.testing.registry import LEARNERS, MAKERS
from mdp_core.testing.report import CheckFailedError, CheckSkippedError, said
from mdp_core.testing.samples import Samples, scenes
from mdp_core.testing.watch import Watched, watching
from mdp_core.testing.work import CountError, Fitted, Item

SEED = 7
MODEL_ADVICE = "give check_plugin or parametrize_with_checks a model=: the folder that a segmenter's fit left"


def find_plugin(host: PluginHost, name: str, kind: str | None = None) -> tuple[str, str]:
    """Returns kind and name of the plugin that ``name`` (``NAME`` or ``KIND:NAME``) means.

    Raises:
        PluginError: There is none, or there are several of different kinds.
    """
    written, _, bare = name.rpartition(":")
    wanted = kind or written
    if wanted and wanted not in KINDS:
        raise PluginError(
            f"no kind of plugin is named {wanted!r}{did_you_mean(wanted, KINDS)}", hint=f"kinds: {', '.join(KINDS)}"
        )
    if wanted:
        return wanted, host.plugin(wanted, bare).name
    kinds = [k for k in KINDS if host.resolve_alias(k, bare) in host.names(k)]
    if len(kinds) > 1:
        raise PluginError(f"{bare!r} is the name of several plugins", hint="write " + " or ".join(f"{k}:{bare}" for k in kinds))
    if not kinds:
        hint = "`mdp plugins list` shows all"
        if host.broken:
            hint += "; broken plugins: " + "; ".join(f"{b.entry_point} from {b.distribution} ({b.error})" for b in host.broken)
        raise PluginError(f"no plugin named {name!r}{did_you_mean(bare, [n for _, n in host.plugins])}", hint=hint)
    return kinds[0], host.resolve_alias(kinds[0], bare)


@dataclass
class Baseline:
    """The plugin's work on the scenes, done once under observation.

    Attributes:
        fitted: What its training left.
        items: What it made of each image.
        error: What it raised.
        count: Why the number of results is wrong.
        watched: What it did beside.
        inputs: Image whose inputs it changed.
        strays: Files that it left where none belong.
        rewrote: File of the model that it changed, or added, when it was applied.
    """

    samples: Samples
    fitted: Fitted | None = None
    items: list[Item] = field(default_factory=list)
    error: Exception | None = None
    trace: str = ""
    count: CountError | None = None
    watched: Watched = field(default_factory=Watched)
    inputs: str | None = None
    strays: tuple[str, ...] = ()
    rewrote: tuple[str, ...] = ()


class Trial:
    """One plugin, with its settings, to be checked.

    Args:
        name: ``NAME`` or ``KIND:NAME``.
        kind: Its kind, where the name does not say it.
        settings: JSON-ready settings, as in a recipe; over those that the plugin has for trials (``StageConfig.trial``).
        plugin_files: One-file plugins to load.
        model: What a segmenter's ``fit`` left, or a function that makes it; for probes that read one.
    """

    def __init__(
        self,
        name: str,
        kind: str | None = None,
        settings: Mapping[str, Any] | None = None,
        plugin_files: Sequence[Path | str] = (),
        model: Path | Callable[[], Path] | None = None,
    ) -> None:
        self._name, self._kind, self._model = name, kind, model
        self.plugin_files = tuple(Path(file).resolve() for file in plugin_files)
        self.given: dict[str, Any] = _absolute(copy.deepcopy(dict(settings or {})))

    @cached_property
    def host(self) -> PluginHost:
        """All plugins.

        Raises:
            PluginError: They are in conflict, or a file of ours is broken.
        """
        host = load_plugins(self.plugin_files)
        host.check()
        return host

    @cached_property
    def plugin(self) -> Plugin:
        """The registration."""
        return self.host.plugin(*find_plugin(self.host, self._name, self._kind))

    @property
    def kind(self) -> str:
        """The plugin's kind."""
        return self.plugin.kind

    @property
    def slot(self) -> str:
        """``kind:name``."""
        return f"{self.plugin.kind}:{self.plugin.name}"

    @cached_property
    def model_class(self) -> type[StageConfig]:
        """The settings model, or a reason to skip."""
        found: type[StageConfig] = self._imported(self.host.config)
        return found

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings under test as a recipe writes them: the plugin's for trials, and over them those given."""
        try:
            return self.model_class.trial_settings(self.given)
        except CheckSkippedError:  # it cannot be imported, which a check tells
            return dict(self.given)

    @cached_property
    def factory(self) -> Any:
        """The plugin's class, or a reason to skip."""
        return self._imported(self.host.factory)

    def _imported(self, get: Callable[[str, str], Any]) -> Any:
        try:
            return get(self.plugin.kind, self.plugin.name)
        except PluginError as error:
            raise CheckSkippedError("it cannot be imported: see builds_from_settings") from error

    def validated(self, settings: Mapping[str, Any]) -> StageConfig:
        """Returns settings as the plugin gets them.

        Raises:
            CheckFailedError: They are not valid.
        """
        try:
            return self.model_class.model_validate(dict(settings))
        except ValidationError as error:
            says = {"extra_forbidden": "no such setting"}
            wrong = [f"{'.'.join(map(str, e['loc']))}: {says.get(e['type'], e['msg'])}" for e in error.errors()]
            names = [setting.name for setting in describe(self.model_class)]
            unknown = [".".join(map(str, e["loc"])) for e in error.errors() if e["type"] == "extra_forbidden"]
            guesses = [did_you_mean(name, names) for name in unknown]
            top = ", ".join(self.model_class.model_fields)
            remedy = "missing settings have no default: give them to the check" if not settings else f"settings: {top}"
            raise CheckFailedError(f"settings: {'; '.join(wrong)}{''.join(guesses)}", remedy) from error

    @cached_property
    def config(self) -> StageConfig:
        """The settings under test, or a reason to skip."""
        try:
            return self.validated(self.settings)
        except (CheckFailedError, MdpError) as error:
            raise CheckSkippedError("it has no valid settings: see builds_from_settings") from error

    @cached_property
    def folder(self) -> Path:
        """A folder for this trial, which goes with it."""
        folder = Path(tempfile.mkdtemp(prefix="mdp-check-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def new_folder(self, name: str) -> Path:
        """Returns an empty folder of this trial."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def create(self, step: str, listener: Listener | None = None) -> Any:
        """Returns a new instance for one step, with the seed and the device that the engine would give it."""
        seed = SEED if step in self.model_class.seeded_steps else 0
        context = Context(seed=seed, device="cpu", listener=listener or Silence())
        return self.factory(self.config, context)

    @property
    def makes(self) -> str:
        """The step that makes something of images."""
        return {"prior": "mine", "clusterer": "embed", "refiner": "refine"}.get(self.kind, "predict")

    @cached_property
    def model(self) -> Path | None:
        """What a segmenter left, where the plugin reads it; a reason to skip where there is none."""
        if not getattr(self.config, "reads_segmenter", False):
            return None
        if self._model is None:
            raise CheckSkippedError(f"it reads a segmenter's model: {MODEL_ADVICE}")
        return self._model if isinstance(self._model, Path) else self._model()

    def learn(self, samples: Samples, place: Path, listener: Listener | None = None, elsewhere: Path | None = None) -> Fitted:
        """Lets a new instance learn in ``place``/result, with ``place``/work for what it needs to resume.

        The working directory is ``elsewhere`` meanwhile, or an empty one: what it writes there lands in nobody's folder.
        """
        result, scratch = place / "result", place / "work"
        shutil.rmtree(result, ignore_errors=True)
        result.mkdir(parents=True)
        scratch.mkdir(exist_ok=True)
        with _inside(elsewhere or self.new_folder("cwd")):
            clusters = work.fit(self.kind, self.create("fit", listener), samples, result, scratch, self.model)
        return Fitted(result, clusters)

    def make(self, samples: Samples, fitted: Fitted | None) -> list[Item]:
        """Returns what a new instance makes of samples."""
        return work.make(self.kind, self.create(self.makes), samples, fitted, self.model)

    @cached_property
    def baseline(self) -> Baseline:
        """The work on the scenes, done once; what it raises is kept in it."""
        _ = self.config, self.model, self.factory  # what these raise is not the work's
        base = Baseline(scenes())
        digests = [sample.digest() for sample in base.samples]
        with watching(base.watched):
            try:
                self._work(base)
            except CountError as error:
                base.count = error
            except Exception as error:
                base.error, base.trace = error, "".join(traceback.format_exception(error))
        changed = (s.record.id for s, digest in zip(base.samples, digests, strict=True) if s.digest() != digest)
        base.inputs = next(changed, None)
        return base

    def _work(self, base: Baseline) -> None:
        if self.kind in LEARNERS or self.kind == "pretrainer":
            place, elsewhere = self.new_folder("fit"), self.new_folder("cwd")
            base.fitted = self.learn(base.samples, place, elsewhere=elsewhere)
            strays = [*elsewhere.rglob("*"), *(p for p in place.iterdir() if p.name not in ("result", "work"))]
            base.strays = tuple(str(path) for path in strays)
        if self.kind in MAKERS:
            files = _files(base.fitted.folder) if base.fitted else {}
            base.items = self.make(base.samples, base.fitted)
            now = _files(base.fitted.folder) if base.fitted else {}
            base.rewrote = tuple(sorted(name for name in {*files, *now} if files.get(name) != now.get(name)))

    @property
    def worked(self) -> Baseline:
        """The work on the scenes.

        Raises:
            CheckSkippedError: It failed, which another check tells.
        """
        base = self.baseline
        if base.error is not None:
            raise CheckSkippedError("the plugin fails on ordinary images: see works_on_scenes")
        if base.count is not None:
            raise CheckSkippedError("it does not yield one result an image: see one_result_an_image")
        return base

    def on(self, samples: Samples) -> list[Item]:
        """Returns what the plugin makes of other images.

        Raises:
            CheckFailedError: It fails on one of them; the message names it.
        """
        fitted = self.worked.fitted
        with watching(Watched()):
            try:
                return self.make(samples, fitted)
            except CountError:
                raise
            except Exception as error:
                names = [sample.record.id for sample in samples]
                for index, name in enumerate(names if len(names) > 1 else ()):
                    try:
                        self.make(samples.at([index]), fitted)
                    except Exception as alone:
                        raise _crash(alone, f"the image {name}") from alone
                raise _crash(error, _named(names)) from error


def _named(names: list[str]) -> str:
    return f"the image {names[0]}" if len(names) == 1 else f"{len(names)} images together" if names else "no images"


def _crash(error: Exception, where: str) -> CheckFailedError:
    return CheckFailedError(
        f"it fails on {where}: {said(error)}",
        "an image that is too small, or in which there is nothing, has an answer too: an empty one; one that raises ends a whole run",
    )


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        if Path.cwd() == folder.resolve():  # otherwise the plugin went elsewhere, which is for another check to tell
            os.chdir(before)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _absolute(value: Any) -> Any:
    """Makes ``file:`` weights absolute: a training is checked in a folder of its own."""
    if isinstance(value, dict):
        return {key: _absolute(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_absolute(item) for item in value]
    if isinstance(value, str) and value.startswith("file:"):
        return f"file:{Path(value.removeprefix('file:')).expanduser().absolute()}"
    return value
