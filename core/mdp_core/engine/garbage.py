"""Garbage collection: removes results that no run refers to, and what killed processes left behind.

A run writes down which results it will look for before it looks (``Store.registering``); what is garbage is decided, and moved to
``store/.trash``, while no run can be writing (``Store.collecting``). A result whose lock somebody holds is left alone. Nothing is
deleted in place, so a kill leaves results whole or gone; the next collection empties the trash.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from mdp_core.engine.cache import Cache, Stored, held, measure
from mdp_core.engine.record import RunRecord, all_runs, mark_killed_runs
from mdp_core.engine.scan import remembered_folders
from mdp_core.engine.store import disk_errors, read_json, remove
from mdp_core.errors import RunError, StoreError

TRASH = ".trash"
_SURELY_OVER = 3600.0
"""Seconds after which a half-written file that nobody's lock protects is taken to be left over."""


@dataclass(frozen=True)
class Limits:
    """What is removed of that which no run refers to; by default all of it. With both limits either reason is enough.

    Attributes:
        older_than: Only what was not written to for so many seconds.
        max_size: Only as much, the oldest first, as brings all results down to so many bytes.
        runs_older_than: Runs that began so many seconds ago are removed first; never one that is under way.
        everything: Go on where there is no run at all, so that nothing is referred to.
    """

    older_than: float | None = None
    max_size: int | None = None
    runs_older_than: float | None = None
    everything: bool = False


@dataclass(frozen=True)
class Leftover:
    """Something that belongs to nothing."""

    path: Path
    why: str
    bytes: int


@dataclass
class Garbage:
    """What a collection removes or removed.

    Attributes:
        total: Bytes of all results beforehand; kept: of those that runs refer to; of_runs: of the runs' own folders.
        skipped: Results that somebody works on.
    """

    results: list[Stored] = field(default_factory=list)
    runs: list[RunRecord] = field(default_factory=list)
    leftovers: list[Leftover] = field(default_factory=list)
    total: int = 0
    kept: int = 0
    of_runs: int = 0
    skipped: list[Stored] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Bytes that the removal frees."""
        return self.of_runs + sum(r.bytes for r in self.results) + sum(f.bytes for f in self.leftovers)


def find_garbage(cache: Cache, limits: Limits, now: float | None = None) -> Garbage:
    """Tells what a collection would remove; changes nothing.

    Raises:
        StoreError: There are no runs; or the record of one cannot be read, or does not say what the run will use.
    """
    now = time.time() if now is None else now
    mark_killed_runs(cache.home)
    there = list(all_runs(cache.home))
    old = [r for r in there if limits.runs_older_than is not None and _began(r) < now - limits.runs_older_than]
    runs = [r for r in old if r.status != "running"]
    results = cache.all()
    if results and not there and not limits.everything:
        raise StoreError(
            f"there are no runs in {cache.home}, so no result is referred to",
            hint="`mdp cache gc --everything` removes them all; with --dry-run it only lists them",
        )
    _check_declared(there)
    gone = {r.id for r in runs}
    users = {place for place, names in cache.users().items() if not gone.issuperset(names)}
    kept = cache.kept(users)
    unused = sorted((s for s in results if s.place not in kept), key=lambda s: s.changed)
    total = sum(s.bytes for s in results)
    chosen = list(_chosen(unused, total, limits, now))
    leftovers = list(_leftovers(cache, kept, now))
    of_runs = sum(measure(r.folder)[0] for r in runs)
    return Garbage(chosen, runs, leftovers, total, total - sum(s.bytes for s in unused), of_runs)


def collect(cache: Cache, limits: Limits) -> Garbage:
    """Removes garbage: what is returned is gone, even if the process is killed while it empties the trash.

    Raises:
        StoreError: As in ``find_garbage``; or the store cannot be written.
    """
    trash = cache.store.root / TRASH
    with disk_errors(cache.store.root), cache.store.collecting():
        found = find_garbage(cache, limits)
        for run in found.runs:
            _discard(run.folder, cache.home / "runs" / TRASH)
        for stored in list(found.results):
            with held(stored.entry) as ours:
                if ours:
                    _discard(stored.entry.folder, trash)
                    stored.entry.lock.unlink(missing_ok=True)
                else:
                    found.results.remove(stored)
                    found.skipped.append(stored)
        for leftover in found.leftovers:
            if leftover.path not in (trash, cache.home / "runs" / TRASH):
                _remove_leftover(leftover.path, trash)
    for folder in (trash, cache.home / "runs" / TRASH):
        with disk_errors(folder):
            remove(folder)
    return found


def remove_run(run: RunRecord) -> None:
    """Removes a run's folder; its results stay in the store until garbage is collected.

    Raises:
        RunError: It is under way.
    """
    if run.status == "running":
        raise RunError(
            f"{run.id} is under way (process {run.process} on {run.host})", hint="stop it first, with Ctrl-C or SIGTERM"
        )
    trash = run.folder.parent / TRASH
    with disk_errors(run.folder):
        _discard(run.folder, trash)
        remove(trash)


def _check_declared(runs: Sequence[RunRecord]) -> None:
    for run in runs:
        if run.status == "running" and run.planned and not (read_json(run.folder / "run.json") or {}).get("places"):
            raise StoreError(
                f"{run.id} is under way, and its record does not say which results it will use",
                hint=f"wait until it has ended (process {run.process} on {run.host})",
            )


def _chosen(unused: Sequence[Stored], total: int, limits: Limits, now: float) -> Iterator[Stored]:
    """Yields what the limits leave no room for, of unused results in order of their age."""
    unlimited = limits.older_than is None and limits.max_size is None
    for stored in unused:
        too_old = limits.older_than is not None and stored.changed < now - limits.older_than
        too_much = limits.max_size is not None and total > limits.max_size
        if unlimited or too_old or too_much:
            total -= stored.bytes
            yield stored


def _leftovers(cache: Cache, kept: set[str], now: float) -> Iterator[Leftover]:
    root = cache.store.root
    for trash in (root / TRASH, cache.home / "runs" / TRASH):
        if trash.is_dir():
            yield _leftover(trash, "a removal that did not end")
    for lock in sorted(root.glob("*-*/*.lock")):
        place = f"{lock.parent.name}/{lock.stem}"
        if place not in kept and not lock.with_suffix("").exists() and _is_free(lock):
            yield _leftover(lock, "a lock without a result")
    for stored in cache.all():
        files = [*stored.entry.folder.glob(".*.tmp"), *stored.entry.parts.glob(".*.tmp")]
        if files and stored.place in kept and stored.state != "being made":
            yield from (_leftover(file, "half-written") for file in files if measure(file)[1] < now - _SURELY_OVER)
    for file in sorted((root / "scans").glob("*")):
        if file.name.endswith(".tmp"):
            if measure(file)[1] < now - _SURELY_OVER:
                yield _leftover(file, "half-written")
            continue
        folders = remembered_folders(file)
        if folders is None:
            yield _leftover(file, "a memory of images of another version, or damaged")
        elif not any(Path(folder).is_dir() for folder in folders):
            yield _leftover(file, "a memory of images whose folders are gone")


def _leftover(path: Path, why: str) -> Leftover:
    return Leftover(path, why, measure(path)[0])


def _is_free(lock: Path) -> bool:
    try:
        with FileLock(lock).acquire(timeout=0):
            return True
    except Timeout:
        return False


def _remove_leftover(path: Path, trash: Path) -> None:
    if path.suffix != ".lock":
        _discard(path, trash)
        return
    try:
        with FileLock(path).acquire(timeout=0):
            path.unlink(missing_ok=True)
    except Timeout:
        return


def _discard(path: Path, trash: Path) -> None:
    """Moves something to the trash, in one step."""
    trash.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):  # somebody else removed it
        path.rename(trash / f"{path.name}-{uuid.uuid4().hex[:8]}")


def _began(run: RunRecord) -> float:
    try:
        return datetime.fromisoformat(run.started).timestamp()
    except ValueError:
        return time.time()
