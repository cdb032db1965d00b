"""Repeats a run from its record, and says whether the numbers came out equal and what was different around it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from mdp_core.data.storage import write_json
from mdp_core.engine.provenance import KEPT_REGISTRY, kept_plugins, kept_registry
from mdp_core.engine.record import RunRecord, StepRecord
from mdp_core.engine.run import Session
from mdp_core.engine.store import Store, disk_errors, remove
from mdp_core.errors import RunError
from mdp_core.plugins.loader import PluginHost
from mdp_core.plugins.registry_file import load_registry_file
from mdp_core.recipe.layers import RecipeText
from mdp_core.recipe.load import LoadedRecipe, load_recipe
from mdp_core.recipe.show import resolved_text

TOLERANCE = 1e-12
"""Metrics that differ by no more than this share count as equal: sums in another order."""
REPETITION = "repetition.json"

Verdict = Literal["equal", "close", "different", "nothing"]
"""exactly equal · equal up to ``TOLERANCE`` · different · nothing that could be compared."""


@dataclass(frozen=True)
class Repetition:
    """A run that is to be repeated, with the recipe and the plugins that it had.

    Attributes:
        loaded: Its recipe, every setting as it was, with ``overrides`` over it.
        until, pretrain: What it was called with.
        notes: What a person should know before it begins.
        variation: Whether something was changed on purpose.
    """

    original: RunRecord
    loaded: LoadedRecipe
    host: PluginHost
    until: str | None
    pretrain: str | None
    notes: tuple[str, ...]
    variation: bool


def prepare(
    original: RunRecord, overrides: Sequence[str] = (), files: Sequence[Path] = (), *, elsewhere: Sequence[str] = ()
) -> Repetition:
    """Loads what a run was made with.

    Args:
        original: The run.
        overrides: Settings to change, as after ``--set``: a variation.
        files: One-file plugins to use in place of those of the same name: a variation.
        elsewhere: Overrides that change where the work is done and no result.

    Raises:
        RunError: The record has no settings.
        MdpError: A plugin is missing now, or does not take these settings any more.
    """
    if not original.resolved:
        raise RunError(f"{original.folder / 'run.json'}: it has no settings to repeat", hint="name another run: `mdp runs ls`")
    replaced = {file.name for file in files}
    notes, sources = [], list(files)
    for kept in kept_plugins(original.folder):
        if kept.file.name in replaced:
            continue
        sources.append(kept.file if kept.unchanged else kept.copy)
        if not kept.unchanged:
            what = "is not the same any more" if kept.file.is_file() else "is gone"
            notes.append(f"plugin {kept.file} {what}; the source that the run kept is used ({kept.copy})")
    if original.status != "finished":
        notes.append(f"run {original.id} did not finish ({original.status}), so it has no numbers to compare with")
    registry = kept_registry(original.folder) or load_registry_file().model_copy(update={"files": ()})
    host = PluginHost(registry, sources)
    host.check()
    text = RecipeText(resolved_text(original.resolved), name=f"run {original.id}")
    loaded = load_recipe(text, [*overrides, *elsewhere], host, {})
    known = original.environment
    return Repetition(original, loaded, host, known.get("until"), known.get("pretrain"), tuple(notes), bool(overrides or files))


@contextmanager
def as_it_was(original: RunRecord) -> Iterator[None]:
    """Works in the folder where the run was called, where that is still there, and with its registry, workers included.

    Relative paths of a recipe (``data.root``, ``file:PATH``) are relative to the folder where mdp is called.
    """
    before, here = os.environ.get("MDP_REGISTRY"), Path.cwd()
    folder = Path(original.environment.get("folder") or here)
    registry = original.folder / KEPT_REGISTRY
    try:
        if folder.is_dir():
            os.chdir(folder)
        if registry.is_file():
            os.environ["MDP_REGISTRY"] = str(registry)
        yield
    finally:
        os.chdir(here)
        if before is None:
            os.environ.pop("MDP_REGISTRY", None)
        else:
            os.environ["MDP_REGISTRY"] = before


# A store of its own


@contextmanager
def fresh_store(home: Path, original: RunRecord, *, keep: bool) -> Iterator[Path]:
    """Gives a repetition a store of its own, so that every step is done again; removes it where the block ends without an error.

    One that was broken off is continued by the next call.

    Raises:
        RunError: Another process repeats the same run in the same way, or a finished repetition was kept there.
    """
    folder = home / "fresh" / original.id
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    finished = folder / "finished"
    lock = FileLock(folder.with_name(f"{original.id}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(f"another process repeats {original.id} in {folder}", hint="wait for its end") from error
    try:
        if finished.exists():
            raise RunError(f"{folder} holds a repetition that was kept (--keep)", hint=f"to repeat once more: rm -r {folder}")
        yield folder
        if keep:
            finished.touch()
        else:
            remove(folder)
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


# Comparison


@dataclass(frozen=True)
class MetricPair:
    """One metric of both runs; None where a run has none of this name."""

    name: str
    before: float | None
    after: float | None

    @property
    def verdict(self) -> Verdict:
        """How the two compare; not-a-number equals itself."""
        if self.before is None or self.after is None:
            return "different"
        if self.before == self.after or (math.isnan(self.before) and math.isnan(self.after)):
            return "equal"
        return "close" if math.isclose(self.before, self.after, rel_tol=TOLERANCE, abs_tol=TOLERANCE) else "different"


@dataclass(frozen=True)
class Difference:
    """Something of the surroundings that is not as it was."""

    what: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.what}: {self.before or 'none'} → {self.after or 'none'}"


@dataclass(frozen=True)
class Comparison:
    """A run and its repetition.

    Attributes:
        done: Steps that were really done again; hits: taken from the store.
        metrics: All metrics of both.
        keys: Steps whose keys are not the same, with both keys; a step that one of them did not reach has none there.
        results: Step → whether its files have the same contents; of a repetition in a store of its own.
        images: Splits whose images are not the same; surroundings: everything else.
    """

    original: str
    repeated: str
    done: int
    hits: int
    steps: int
    metrics: tuple[MetricPair, ...]
    keys: tuple[Difference, ...]
    images: tuple[Difference, ...]
    surroundings: tuple[Difference, ...]
    results: Mapping[str, bool] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """Whether the numbers are equal; where there are no metrics, whether the files of the results are."""
        found = {pair.verdict for pair in self.metrics}
        if not found:
            return "nothing" if not self.results else "equal" if all(self.results.values()) else "different"
        return "different" if "different" in found else "close" if "close" in found else "equal"

    def save(self, folder: Path) -> None:
        """Writes the comparison into the folder of the repeated run."""
        with disk_errors(folder):
            write_json(folder / REPETITION, {"verdict": self.verdict, **asdict(self)})


def compare(original: RunRecord, repeated: RunRecord, results: Mapping[str, bool] | None = None) -> Comparison:
    """Compares a repeated run with its original."""
    names = [*original.metrics, *(n for n in repeated.metrics if n not in original.metrics)]
    done = sum(s.status == "done" for s in repeated.steps)
    hits = sum(s.status == "hit" for s in repeated.steps)
    return Comparison(
        original.id,
        repeated.id,
        done,
        hits,
        len(repeated.steps),
        tuple(MetricPair(n, original.metrics.get(n), repeated.metrics.get(n)) for n in names),
        tuple(_keys(original.steps, repeated.steps)),
        tuple(image_differences(original.images, repeated.images)),
        tuple(surroundings(original, repeated)),
        dict(results or {}),
    )


def _keys(before: Sequence[StepRecord], after: Sequence[StepRecord]) -> Iterator[Difference]:
    left, right = ({s.id: s.key[:12] for s in steps} for steps in (before, after))
    for step in dict.fromkeys([*left, *right]):
        if left.get(step) != right.get(step):
            yield Difference(step, left.get(step, ""), right.get(step, ""))


def compare_results(original: RunRecord, store: Store, session: Session) -> dict[str, bool]:
    """Tells for each step that the original's store still has, whether its files in ``store`` have the same contents."""
    theirs, found = Store(original.home), {}
    for step in session.plan.steps:
        before = theirs.entry(step.kind, step.step, step.key, {}).manifest()
        after = store.entry(step.kind, step.step, step.key, {}).manifest()
        if before is not None and after is not None:
            found[step.id] = dict(before.files) == dict(after.files)
    return found


def image_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    """Yields the splits whose images are not the ones of before: other contents, or another number of them."""
    for role in dict.fromkeys([*before, *after]):
        old, new = before.get(role) or {}, after.get(role) or {}
        if old.get("fingerprint") != new.get("fingerprint"):
            name = f"images of split {new.get('split') or old.get('split')} ({role})"
            yield Difference(name, _images(old), _images(new))


def session_images(session: Session) -> dict[str, Any]:
    """Returns the images of a planned run, as its record will have them."""
    return {
        role: {"split": images.split, "count": len(images.records), "fingerprint": images.fingerprint}
        for role, images in session.images.items()
    }


def _images(known: Mapping[str, Any]) -> str:
    return f"{known.get('count')} images, fingerprint {str(known.get('fingerprint'))[:12]}" if known else ""


def surroundings(original: RunRecord, repeated: RunRecord) -> Iterator[Difference]:
    """Yields what of the surroundings is not as it was: versions, commits, device, plugins, variables; what matters most first."""
    before, after = original.environment, repeated.environment
    yield from _mappings("plugin ", _plugins(before), _plugins(after))
    libraries = set(before.get("libraries") or {}) | set(after.get("libraries") or {})
    yield from _mappings("", before.get("libraries") or {}, after.get("libraries") or {})
    yield from _mappings("commit of the ", _commits(before), _commits(after))
    for name in ("python", "platform"):
        yield from _mappings("", {name: before.get(name)}, {name: after.get(name)})
    yield from _mappings("", {"host": original.host}, {"host": repeated.host})
    yield from _mappings("device: ", before.get("device") or {}, after.get("device") or {})
    yield from _mappings("steps on ", _devices(original), _devices(repeated))
    yield from _mappings("variable ", before.get("variables") or {}, after.get("variables") or {})
    others = [{n: v for n, v in _freeze(e).items() if n not in libraries} for e in (before, after)]
    if all(others):
        yield from _mappings("", *others)


def _mappings(prefix: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if old != new and name not in ("MDP_HOME", "MDP_REGISTRY"):
            yield Difference(f"{prefix}{name}", _text(old), _text(new))


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)


def _plugins(environment: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for row in environment.get("plugins") or ():
        code = f"sha256:{row['sha256'][:12]}" if row["sha256"] else row["version"]
        found[f"{row['kind']}:{row['name']}"] = f"{row['distribution']} {code}, results version {row['cache_version']}"
    return found


def _commits(environment: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, key in (("working folder", "git"), ("mdp that ran", "mdp_git")):
        state = environment.get(key)
        if state:
            found[name] = state["commit"][:12] + (" with uncommitted changes" if state["dirty"] else "")
    return found


def _devices(record: RunRecord) -> dict[str, str]:
    """Returns stage → the device that its steps say they ran on; steps from the store say where they were done."""
    return {step.stage: step.notes["device"] for step in record.steps if "device" in step.notes}


def _freeze(environment: Mapping[str, Any]) -> dict[str, str]:
    lines = (re.split(r"==|  # ", line, maxsplit=1) for line in environment.get("freeze") or ())
    return {name.lower(): rest for name, rest in lines}
