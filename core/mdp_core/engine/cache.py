"""The store as a whole: what is in it, which runs use it, and whether its contents are what they were."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from mdp_core.engine.keys import digest
from mdp_core.engine.store import Entry, Manifest, Store, contents_sha256, read_json
from mdp_core.errors import StoreError
from mdp_core.recipe.problems import did_you_mean

State = Literal["whole", "unfinished", "damaged", "being made"]
Progress = Callable[[int, int], None]
_KEY = re.compile(r"[0-9a-f]{32}")
_STAGE_KEY = "stage-key:"


@dataclass(frozen=True)
class Stored:
    """One result of the store, complete or not.

    Attributes:
        entry: Its place; ``entry.payload`` is what its key was made of, empty where ``key.json`` is missing or damaged.
    """

    entry: Entry

    @property
    def key(self) -> str:
        """Its key."""
        return self.entry.folder.name

    @property
    def group(self) -> str:
        """``<stage kind>-<step>``."""
        return self.entry.folder.parent.name

    @property
    def place(self) -> str:
        """Its folder under the store: ``prior-mine/<key>``."""
        return f"{self.group}/{self.key}"

    @property
    def plugin(self) -> str:
        """The plugin that made it, or the protocol of an evaluation; empty where that is not known."""
        plugin = self.entry.payload.get("plugin")
        return str(plugin["name"]) if isinstance(plugin, Mapping) else str(self.entry.payload.get("step", ""))

    @cached_property
    def manifest(self) -> Manifest | None:
        """What is known of it, if it is complete."""
        return self.entry.manifest()

    @cached_property
    def missing(self) -> list[str]:
        """Files that the manifest names and that are not there."""
        return [name for name in (self.manifest.files if self.manifest else ()) if not (self.entry.folder / name).exists()]

    @cached_property
    def state(self) -> State:
        """What can be told without reading its contents: ``damaged`` means files missing, or a manifest that cannot be read."""
        if self.manifest is not None:
            return "damaged" if self.missing else "whole"
        if is_locked(self.entry):
            return "being made"
        return "damaged" if (self.entry.folder / "manifest.json").is_file() else "unfinished"

    @cached_property
    def parts(self) -> int:
        """How many parts of a map step are finished."""
        return len(self.stamps())

    def stamps(self) -> dict[str, str]:
        """Returns the finished parts, as paths inside the entry, with their sha256."""
        found = {}
        for file in sorted(self.entry.parts.glob("*.json")):
            stamp = read_json(file)
            if stamp is not None and "name" in stamp:
                found[f"parts/{stamp['name']}"] = str(stamp.get("sha256"))
        return found

    @cached_property
    def completed(self) -> float:
        """When it became complete (seconds since 1970); 0 where it is not."""
        try:
            return (self.entry.folder / "manifest.json").stat().st_mtime
        except OSError:
            return 0.0

    @cached_property
    def measure(self) -> tuple[int, float]:
        """Bytes of all its files, and when the last of them changed (seconds since 1970)."""
        return measure(self.entry.folder)

    @property
    def bytes(self) -> int:
        """Bytes of all its files."""
        return self.measure[0]

    @property
    def changed(self) -> float:
        """When it was last written to (seconds since 1970)."""
        return self.measure[1]

    def inputs(self) -> dict[str, str]:
        """Returns slot → key of the results it was made from; ``weights`` where settings named an earlier training."""
        payload = self.entry.payload
        found = {str(slot): str(key) for slot, key in (payload.get("inputs") or {}).items()}
        trained = sorted(set(_stage_keys(payload.get("settings"))))
        return found | {f"weights{n or ''}": key for n, key in enumerate(trained)}


class Cache:
    """All results of a home.

    Args:
        home: MDP_HOME.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = Store(home)

    def of(self, group: str) -> list[Stored]:
        """Returns the results of one step of one kind of stage (``prior-mine``), complete or not."""
        try:
            folders = sorted(f for f in (self.store.root / group).iterdir() if _KEY.fullmatch(f.name) and f.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [Stored(Entry(folder, read_json(folder / "key.json") or {})) for folder in folders]

    def all(self) -> list[Stored]:
        """Returns all results, by step and key."""
        groups = sorted(f.name for f in self.store.root.glob("*-*") if f.is_dir() and not f.name.startswith("."))
        return [stored for group in groups for stored in self.of(group)]

    def find(self, reference: str) -> Stored:
        """Returns the result of a key, of the unique beginning of one, or of ``prior-mine/<key>``.

        Raises:
            StoreError: There is none, or more than one.
        """
        group, _, beginning = reference.rpartition("/")
        there = self.of(group) if group else self.all()
        found = [s for s in there if s.key == beginning] or [s for s in there if beginning and s.key.startswith(beginning)]
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(s.place for s in found[:5])
            raise StoreError(f"{reference}: {len(found)} results have such a key: {shown}{', …' if len(found) > 5 else ''}")
        keys = [s.key[: max(len(beginning), 4)] for s in there]
        raise StoreError(
            f"no result {reference!r} in {self.store.root}{did_you_mean(beginning, keys)}", hint="`mdp cache ls` shows them"
        )

    def users(self) -> dict[str, list[str]]:
        """Returns place → ids of the runs that used that result or meant to, oldest first.

        Raises:
            StoreError: The record of a run cannot be read, so what it uses is not known.
        """
        found: dict[str, list[str]] = {}
        for file in sorted((self.home / "runs").glob("*/run.json")):
            content = read_json(file)
            if content is None:
                raise StoreError(
                    f"{file}: cannot be read, so what this run uses is not known",
                    hint=f"remove the run: mdp runs rm {file.parent.name}",
                )
            for place in _places(content):
                found.setdefault(place, []).append(file.parent.name)
        return found

    def kept(self, users: Iterable[str]) -> set[str]:
        """Returns the places of what runs use and of all that it was made from."""
        by_key = {stored.key: stored for stored in self.all()}
        kept = set(users)
        pending = [place.rpartition("/")[2] for place in kept]
        while pending:
            stored = by_key.get(pending.pop())
            for key in stored.inputs().values() if stored else ():
                source = by_key.get(key)
                if source is not None and source.place not in kept:
                    kept.add(source.place)
                    pending.append(key)
        return kept


@dataclass(frozen=True)
class Verdict:
    """What was found when a result's contents were read.

    Attributes:
        damaged: Files that are missing or changed.
        problem: What is wrong beside them.
    """

    stored: Stored
    damaged: tuple[str, ...] = ()
    problem: str = ""

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.damaged or self.problem)


def verify(chosen: Sequence[Stored], progress: Progress = lambda done, total: None) -> list[Verdict]:
    """Reads the contents of results and compares them with the hashes that were written down; a result being made is left out.

    Args:
        chosen: The results; of an unfinished one its finished parts are read.
        progress: Told (done, total) in files or folders.
    """
    chosen = [stored for stored in chosen if stored.state != "being made"]
    wanted = [(index, name, sha) for index, stored in enumerate(chosen) for name, sha in _expected(stored).items()]
    damaged: dict[int, list[str]] = {}
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        paths = [chosen[index].entry.folder / name for index, name, _ in wanted]
        for done, ((index, name, sha), found) in enumerate(zip(wanted, pool.map(_sha256, paths), strict=True), 1):
            if found != sha:
                damaged.setdefault(index, []).append(name)
            progress(done, len(wanted))
    return [Verdict(stored, tuple(damaged.get(index, ())), _problem(stored)) for index, stored in enumerate(chosen)]


def repair(verdict: Verdict) -> bool:
    """Makes a damaged result incomplete, so that the next run makes what is damaged anew; False where somebody works on it."""
    entry = verdict.stored.entry
    with held(entry) as ours:
        if not ours:
            return False
        if verdict.damaged or verdict.stored.state == "damaged":
            entry.reopen()
        for name in verdict.damaged:
            if name.startswith("parts/"):
                entry.finished_part(name.removeprefix("parts/"))  # removes what is left of it
        if digest(entry.payload) != entry.folder.name:
            (entry.folder / "key.json").unlink(missing_ok=True)
    return True


@contextmanager
def held(entry: Entry) -> Iterator[bool]:
    """Gives whether the entry's lock was free, and holds it; nothing else writes there meanwhile."""
    lock = FileLock(entry.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_locked(entry: Entry) -> bool:
    """Tells whether a process works on a result now."""
    if not entry.lock.is_file():
        return False
    with held(entry) as ours:
        return not ours


def measure(path: Path) -> tuple[int, float]:
    """Returns the bytes of a file or of all files below a folder, and the newest of their times."""
    size, newest = 0, 0.0
    pending = [str(path)]
    while pending:
        try:
            with os.scandir(pending.pop()) as found:
                for item in found:
                    if item.is_dir(follow_symlinks=False):
                        pending.append(item.path)
                    else:
                        status = item.stat(follow_symlinks=False)
                        size, newest = size + status.st_size, max(newest, status.st_mtime)
        except NotADirectoryError:
            status = path.lstat()
            size, newest = size + status.st_size, max(newest, status.st_mtime)
        except FileNotFoundError:  # removed meanwhile
            continue
    return size, newest


def _expected(stored: Stored) -> Mapping[str, str]:
    return stored.manifest.files if stored.manifest is not None else stored.stamps()


def _sha256(path: Path) -> str | None:
    try:
        return contents_sha256(path)
    except OSError:  # cannot be read: as good as gone
        return None


def _problem(stored: Stored) -> str:
    payload = stored.entry.payload
    if stored.state == "damaged" and stored.manifest is None:
        return "its manifest cannot be read"
    there = (stored.entry.folder / "key.json").is_file()
    return "key.json does not say what its key was made of" if there and digest(payload) != stored.key else ""


def _places(run: Mapping[str, Any]) -> set[str]:
    """Returns where the results of a run lie, from what run.json says of its steps, done or only planned."""
    steps = {f"{s.get('kind')}-{s.get('step')}/{s.get('key')}" for s in run.get("steps") or () if isinstance(s, Mapping)}
    places = run.get("places") or {}
    return steps | {str(place) for place in places.values()}


def _stage_keys(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _stage_keys(item)
    elif isinstance(value, str) and value.startswith(_STAGE_KEY):
        yield value.removeprefix(_STAGE_KEY)
