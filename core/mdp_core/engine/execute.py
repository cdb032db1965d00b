"""Does one step: reads its inputs from the store, calls the plugin, and writes the result, part by part."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from mdp_core.data.images import Images
from mdp_core.data.instances import Instances
from mdp_core.data.label_map import LabelMap
from mdp_core.data.storage import (
    StoredInstances,
    StoredLabelMaps,
    read_embeddings,
    replacing,
    write_embeddings,
    write_instances,
    write_json,
    write_label_maps,
)
from mdp_core.engine.jobs import Job, read_records
from mdp_core.engine.store import Entry, Manifest, disk_errors, remove
from mdp_core.errors import PluginError, StageError
from mdp_core.plugins.loader import PluginHost, load_plugins
from mdp_core.settings import file_sha256
from mdp_core.stages.base import Context, Listener
from mdp_core.stages.pretrainer import BACKBONE


def resolve_device(wanted: str) -> str:
    """Returns ``cpu`` or a CUDA device for ``auto``; does not import torch on a machine without an NVIDIA device."""
    if wanted != "auto":
        return wanted
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass
class _Record:
    """Listens to a plugin for the manifest, and passes everything on."""

    listener: Listener
    weights: Mapping[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def progress(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        self.listener.progress(done, total, metrics)

    def note(self, name: str, value: str) -> None:
        for file, ref in self.weights.items():
            value = value.replace(file, ref)
        self.notes[name] = value
        self.listener.note(name, value)

    def warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)
            self.listener.warn(message)


class Executor:
    """Does jobs in this process, keeping plugins (and so their weights) from one job of a stage to the next."""

    def __init__(self) -> None:
        self._host: PluginHost | None = None
        self._plugins: dict[str, tuple[Any, _Relay]] = {}

    def execute(self, job: Job, listener: Listener) -> None:
        """Does one job unless its result is there by the time that its lock is ours.

        Raises:
            MdpError: The step cannot be done; the message is for people.
        """
        entry = Entry(Path(job.entry), job.payload)
        with disk_errors(entry.folder):
            entry.folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(entry, listener):
                if entry.manifest() is not None and not entry.damage():
                    return
                entry.begin()
                entry.reopen()
                entry.sweep()
                record = _Record(listener, job.weights)
                started = time.monotonic()
                work = _Work(job, entry, record, self._open_host(job), self)
                names, clusters = work.do()
                seconds = time.monotonic() - started
                entry.finish(names, Manifest({}, record.notes, record.warnings, seconds, clusters))
                remove(entry.work)

    def _open_host(self, job: Job) -> PluginHost:
        if self._host is None:
            self._host = load_plugins([Path(f) for f in job.plugin_files])
            self._host.check()
        return self._host

    def plugin(self, job: Job, listener: Listener) -> Any:
        """Returns the instance of the job's plugin, made once for equal settings and seed."""
        name = json.dumps([job.kind, job.plugin, dict(job.settings), job.seed], sort_keys=True)
        if name not in self._plugins:
            relay = _Relay()
            context = Context(job.seed, resolve_device(job.device), relay)
            self._plugins[name] = (self._open_host(job).create(job.kind, job.plugin, job.settings, context), relay)
        instance, relay = self._plugins[name]
        relay.target = listener
        listener.note("device", instance.context.device)
        return instance


class _Relay:
    """The listener that a plugin keeps, pointed at the listener of the job at hand."""

    target: Listener

    def progress(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        self.target.progress(done, total, metrics)

    def note(self, name: str, value: str) -> None:
        self.target.note(name, value)

    def warn(self, message: str) -> None:
        self.target.warn(message)


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


class _Work:
    """One job with its inputs at hand."""

    def __init__(self, job: Job, entry: Entry, listener: _Record, host: PluginHost, executor: Executor) -> None:
        self.job, self.entry, self.listener, self.host, self.executor = job, entry, listener, host, executor
        name, settings = job.dataset
        self.dataset = host.create("dataset", name, settings, Context())
        self.images = Images(read_records(Path(job.images)), self.dataset.read)
        self.inputs = {slot: Entry(Path(folder), {}) for slot, folder in job.inputs.items()}
        self.clusters = max((m.clusters for e in self.inputs.values() if (m := e.manifest()) is not None), default=0)

    def do(self) -> tuple[list[str], int]:
        """Does the job: returns the names of what makes up the result, and the number of clusters."""
        actions: Mapping[tuple[str, str], Callable[[], list[str]]] = {
            ("pretrainer", "fit"): self.fit_pretrainer,
            ("prior", "mine"): self.mine,
            ("clusterer", "embed"): self.embed,
            ("clusterer", "fit"): self.fit_clusters,
            ("clusterer", "assign"): self.assign,
            ("detector", "fit"): self.fit_detector,
            ("detector", "predict"): self.predict,
            ("refiner", "refine"): self.refine,
            ("segmenter", "fit"): self.fit_segmenter,
            ("segmenter", "predict"): self.predict,
        }
        action = self.evaluate if self.job.kind == "evaluate" else actions[self.job.kind, self.job.step]
        return action(), self.clusters

    @property
    def plugin(self) -> Any:
        return self.executor.plugin(self.job, self.listener)

    # Inputs

    def read_instances(self, slot: str) -> StoredInstances:
        return StoredInstances(self.inputs[slot].part_files())

    def read_label_maps(self, slot: str) -> StoredLabelMaps:
        return StoredLabelMaps(self.inputs[slot].label_maps([record.id for record in self.images.records]))

    def read_predictions(self, slot: str) -> StoredInstances | StoredLabelMaps:
        """Reads instances or label maps, whichever the input made."""
        parts = self.inputs[slot].part_files()
        return self.read_label_maps(slot) if parts and parts[0].is_dir() else self.read_instances(slot)

    # Map steps

    def map(self, suffix: str, produce: Callable[[range], Iterator[Any]], write: Callable[..., None]) -> list[str]:
        """Does the shards that are not there yet. ``produce`` yields one item an image of a shard."""
        records, size = self.images.records, self._shard_size()
        done, names = 0, []
        for number, start in enumerate(range(0, len(records), size)):
            shard = range(start, min(start + size, len(records)))
            name = f"{number:05d}{suffix}"
            if not self.entry.finished_part(name):
                items = []
                for index, item in zip(shard, _all_of(produce(shard), len(shard), self.job), strict=True):
                    _check_item(item, records[index], self.job)
                    items.append(item)
                    self.listener.progress(done + len(items), len(records), {})
                write(self.entry.parts / name, [records[i].id for i in shard], items)
                self.entry.stamp_part(name)
            done += len(shard)
            self.listener.progress(done, len(records), {})
            names.append(f"parts/{name}")
        return [*names, "shards.json"]

    def _shard_size(self) -> int:
        """Returns the shard size; parts cut another way by an interrupted run are thrown away."""
        if self.entry.shard_size() != self.job.shard_size:
            remove(self.entry.parts)
            write_json(self.entry.folder / "shards.json", {"size": self.job.shard_size})
        return self.job.shard_size

    def mine(self) -> list[str]:
        return self.map(".parquet", lambda shard: self.plugin.mine(self.images.subset(shard)), write_instances)

    def embed(self) -> list[str]:
        instances = self.read_instances("instances")
        return self.map(
            ".safetensors",
            lambda shard: self.plugin.embed(self.images.subset(shard), [instances[i] for i in shard]),
            lambda path, _ids, items: write_embeddings(path, items),
        )

    def assign(self) -> list[str]:
        instances = self.read_instances("instances")
        embeddings = [rows for part in self.inputs["embeddings"].part_files() for rows in read_embeddings(part)]
        folder = self.inputs["clusters"].result

        def assigned(shard: range) -> Iterator[Instances]:
            counts = [len(embeddings[i]) for i in shard]
            labels = self._assign(folder, [embeddings[i] for i in shard if len(embeddings[i])])
            ends = np.cumsum(counts)
            for i, end, count in zip(shard, ends, counts, strict=True):
                yield instances[i].with_labels(labels[end - count : end])

        return self.map(".parquet", assigned, write_instances)

    def _assign(self, folder: Path, rows: Sequence[Any]) -> Any:
        return self.plugin.assign(folder, np.concatenate(rows)) if rows else np.zeros(0, np.int32)

    def predict(self) -> list[str]:
        folder = self.inputs["model"].result
        if self.job.kind == "detector":
            return self.map(".parquet", lambda shard: self.plugin.predict(folder, self.images.subset(shard)), write_instances)
        return self.map("", lambda shard: self.plugin.predict(folder, self.images.subset(shard)), write_label_maps)

    def refine(self) -> list[str]:
        given = self.read_predictions("predictions")
        return self.map(
            "", lambda shard: self.plugin.refine(self.images.subset(shard), [given[i] for i in shard]), write_label_maps
        )

    # Fit steps

    def fit(self, train: Callable[[Path], None]) -> list[str]:
        """Calls ``train`` with an empty folder that becomes the result at the end."""
        with replacing(self.entry.result) as folder:
            folder.mkdir(parents=True)
            self.entry.work.mkdir(exist_ok=True)
            train(folder)
        return ["result"]

    def fit_pretrainer(self) -> list[str]:
        instances = self.read_instances("instances") if "instances" in self.inputs else None

        def train(folder: Path) -> None:
            self.plugin.fit(self.images, instances, folder, self.entry.work)
            if not (folder / BACKBONE).is_file():
                raise PluginError(f"pretrainer:{self.job.plugin} left no {BACKBONE} in step {self.job.id}")
            self.listener.note("backbone", f"sha256:{file_sha256(folder / BACKBONE)}")

        return self.fit(train)

    def fit_clusters(self) -> list[str]:
        rows = [r for part in self.inputs["embeddings"].part_files() for r in read_embeddings(part) if len(r)]
        if not rows:
            raise StageError(
                f"there are no masks to cluster: the prior found none in {len(self.images)} images",
                hint="look at the prior's settings, or try another prior (`mdp plugins list`)",
            )

        def train(folder: Path) -> None:
            self.clusters = int(self.plugin.fit(np.concatenate(rows), folder))

        return self.fit(train)

    def fit_detector(self) -> list[str]:
        instances = self.read_instances("labels")
        if not any(len(i) for i in instances):
            raise StageError(f"there are no masks to learn from in {len(self.images)} images")
        return self.fit(lambda folder: self.plugin.fit(self.images, instances, self.clusters, folder, self.entry.work))

    def fit_segmenter(self) -> list[str]:
        maps = self.read_label_maps("labels")
        return self.fit(lambda folder: self.plugin.fit(self.images, maps, self.clusters, folder, self.entry.work))

    # Evaluation: the one place where ground truth is read

    def evaluate(self) -> list[str]:
        from mdp_core.engine.evaluate import evaluate

        predictions = self.read_predictions("predictions")
        job = replace(self.job, facts={**self.job.facts, "clusters": self.clusters})
        return self.fit(lambda folder: evaluate(job, self.dataset, self.images, predictions, folder, self.listener))


def _all_of(items: Iterator[Any], expected: int, job: Job) -> Iterator[Any]:
    count = 0
    for item in items:
        count += 1
        if count > expected:
            break
        yield item
    if count != expected:
        raise PluginError(
            f"{job.kind}:{job.plugin} yielded {'more than ' if count > expected else ''}{min(count, expected)} results for {expected} images in step {job.id}",
            hint="a plugin yields exactly one result an image, in order",
        )


def _check_item(item: Any, record: Any, job: Job) -> None:
    if isinstance(item, Instances | LabelMap):
        if item.size != (record.height, record.width):
            raise PluginError(
                f"{job.kind}:{job.plugin} gave a result of {item.size[0]}×{item.size[1]} for {record.id}, which has {record.height}×{record.width} (height×width)",
                hint="results are at the image's own size",
            )
    elif not (isinstance(item, np.ndarray) and item.ndim == 2):
        raise PluginError(f"{job.kind}:{job.plugin} yielded a {type(item).__name__} in step {job.id}")
