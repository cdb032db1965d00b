"""Coordinates one step: holds its lock, cuts it into tasks, hands them to the executor, and writes the manifest.

All that decides what is a result happens here, in the engine's process; executors only do tasks.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from mdp_core.data.storage import write_json
from mdp_core.engine.costs import PEAK_MEMORY
from mdp_core.engine.execute import CLUSTERS
from mdp_core.engine.jobs import Job, shards
from mdp_core.engine.map_shard import BEGUN
from mdp_core.engine.store import Entry, Manifest, disk_errors, remove
from mdp_core.stages.base import Listener
from mdp_core.stages.executor import Executor, Task

CURVE = "curve.jsonl"
"""What a training told of its metrics, beside its result: one line of JSON each, with ``done``, ``total``, ``metrics`` and the
seconds spent so far. After a resume lines may repeat a ``done``: the last one counts."""


@dataclass(frozen=True)
class Coordinator:
    """Does the steps of a run with one executor.

    Attributes:
        executor: Does the tasks.
    """

    executor: Executor[Any]

    def complete(
        self, job: Job, entry: Entry, images: int, log: Path, listener: Listener, *, distributed: bool = False
    ) -> bool:
        """Makes the result of a step complete.

        Args:
            job: The step.
            entry: Where its result belongs.
            images: How many images it reads.
            log: Takes what its tasks print.
            listener: Told of progress, notes and warnings.
            distributed: Whether several processes may do the step together.

        Returns:
            Whether anything had to be done; False where another process did it while this one waited.

        Raises:
            MdpError: The step cannot be done; finished shards and checkpoints are kept.
        """
        with disk_errors(entry.folder):
            entry.folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(entry, listener):
                if entry.manifest() is not None and not entry.damage():
                    return False
                entry.begin()
                entry.reopen()
                entry.sweep()
                self._complete(job, entry, images, log, listener, distributed)
                return True

    def _complete(self, job: Job, entry: Entry, images: int, log: Path, listener: Listener, distributed: bool) -> None:
        text, plugin, started = job.to_json(), f"{job.kind}:{job.plugin}", time.monotonic()
        if job.suffix is None:
            if not entry.work.is_dir():
                remove(entry.folder / CURVE)  # of a training that was damaged since, and is done from its beginning
            tasks = [Task(job.id, job.stage, text, None, images, plugin, job.device, distributed)]
            names = ["result"]
            kept = 0
        else:
            cut = _cut(entry, images, job.shard_size)
            missing = [n for n in range(len(cut)) if not entry.finished_part(job.part(n))]
            tasks = [Task(_shard_id(job, n, len(cut)), job.stage, text, n, len(cut[n]), plugin, job.device) for n in missing]
            names = [*(f"parts/{job.part(n)}" for n in range(len(cut))), "shards.json"]
            kept = images - sum(t.images for t in tasks)
        with _Told(job, entry, images, kept, listener) as told:
            if tasks:
                self.executor.run(tasks, log, told)
        seconds = told.before + time.monotonic() - started
        clusters = told.clusters or job.clusters
        entry.finish(names, Manifest({}, told.notes, told.warnings, seconds, clusters, images - kept, told.peak_memory))
        remove(entry.work)
        remove(entry.folder / BEGUN)


def _spent(curve: Path) -> float:
    """Returns the seconds that interrupted runs have spent on a training, by the last whole line of its metrics."""
    lines = curve.read_text(encoding="utf-8", errors="replace").splitlines() if curve.is_file() else []
    for line in reversed(lines[-2:]):  # the last one may be cut off
        with suppress(ValueError, TypeError, KeyError):
            return float(json.loads(line)["seconds"])
    return 0.0


def _shard_id(job: Job, shard: int, of: int) -> str:
    return job.id if of == 1 else f"{job.id} shard {shard + 1}/{of}"


def _cut(entry: Entry, images: int, size: int) -> list[range]:
    """Returns the shards; parts that an interrupted run cut another way are thrown away."""
    if entry.shard_size() != size:
        remove(entry.parts)
        remove(entry.folder / BEGUN)
        write_json(entry.folder / "shards.json", {"size": size})
    entry.parts.mkdir(exist_ok=True)
    return shards(images, size)


@contextmanager
def _locked(entry: Entry, listener: Listener) -> Iterator[None]:
    """Holds the entry's lock; says so when another process holds it first."""
    lock = FileLock(entry.lock)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        listener.warn("another process works on this step; waiting for its result")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@dataclass
class _Told:
    """Listens to the tasks of a step, from whichever thread, and passes on what they tell as the step's."""

    job: Job
    entry: Entry
    images: int
    kept: int
    listener: Listener
    notes: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    clusters: int = 0
    peak_memory: int = 0
    before: float = 0.0
    _started: float = field(default_factory=time.monotonic)
    _done: dict[int, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _curve: IO[str] | None = None

    def __enter__(self) -> _Told:
        self.before = _spent(self.entry.folder / CURVE)
        return self

    def __exit__(self, *_: object) -> None:
        if self._curve is not None:
            self._curve.close()

    def progress(self, task: Task, done: int, total: int, metrics: Mapping[str, float]) -> None:
        with self._lock:
            if task.shard is not None:
                self._done[task.shard] = done
                done, total = self.kept + sum(self._done.values()), self.images
            elif metrics:
                self._note_metrics(done, total, metrics)
            self.listener.progress(done, total, metrics)

    def _note_metrics(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        if self._curve is None:
            file = self.entry.folder / CURVE
            torn = file.is_file() and not file.read_bytes().endswith(b"\n")
            self._curve = file.open("a", encoding="utf-8")
            self._curve.write("\n" if torn else "")
        seconds = round(self.before + time.monotonic() - self._started, 2)
        line = {"done": done, "total": total, "metrics": dict(metrics), "seconds": seconds}
        self._curve.write(json.dumps(line) + "\n")

    def note(self, task: Task, name: str, value: str) -> None:
        for file, ref in self.job.weights.items():
            value = value.replace(file, ref)
        with self._lock:
            if name == CLUSTERS:
                self.clusters = int(value)
            elif name == PEAK_MEMORY:
                self.peak_memory = max(self.peak_memory, int(value))
            elif self.notes.get(name) != value:
                self.notes[name] = value
                self.listener.note(name, value)

    def warn(self, task: Task, message: str) -> None:
        with self._lock:
            if message not in self.warnings:
                self.warnings.append(message)
                self.listener.warn(message)
