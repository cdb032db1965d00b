"""Does tasks: reads the inputs from the store, calls the plugin, and writes one part of the result, or a fit's result.

This runs wherever an executor puts it: in a worker process, on another machine of a cluster, or in the engine's own process.
The engine holds the lock of the step, decides which shards are to be done, and writes the manifest (``coordinate.py``).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from mdp_core.data.images import ImageRecord, Images, Pixels
from mdp_core.data.instances import Instances
from mdp_core.data.storage import (
    StoredInstances,
    StoredLabelMaps,
    read_embeddings,
    replacing,
)
from mdp_core.engine.costs import PEAK_MEMORY, begin_peak, peak_memory
from mdp_core.engine.jobs import SUPPORT, Job, read_records, shards
from mdp_core.engine.map_shard import Produce, Shard
from mdp_core.engine.select import TrueLabelMaps, chosen, select
from mdp_core.engine.store import Entry, disk_errors
from mdp_core.errors import PluginError, StageError
from mdp_core.plugins.loader import PluginHost, load_plugins
from mdp_core.settings import file_sha256
from mdp_core.stages.base import Context, Listener, Silence
from mdp_core.stages.pretrainer import BACKBONE

CLUSTERS = "clusters"
"""Name of the note with which the training of a clusterer tells the engine how many clusters there are."""


def do(text: str, shard: int | None, listener: Listener) -> None:
    """Does one task: the function that ``Task`` names.

    Args:
        text: The job as JSON.
        shard: Number of the shard, or None for a step that is done whole.
        listener: Told of progress, notes and warnings.

    Raises:
        MdpError: It cannot be done; the message is for people.
    """
    _BENCH.do(text, shard, listener)


def rank() -> int:
    """Returns which of the processes that train together this is, as torchrun tells it; 0 where there is just one."""
    return int(os.environ.get("RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0


def resolve_device(wanted: str) -> str:
    """Returns ``cpu`` or a CUDA device for ``auto``; does not import torch on a machine without an NVIDIA device.

    Raises:
        StageError: A GPU is wanted that is not here.
    """
    if wanted == "cpu":
        return wanted
    if wanted != "auto":
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(wanted.partition(":")[2] or 0) >= count:
            here = f"there are {count} GPUs" if count else "there is no GPU that torch can use"
            raise StageError(f"device: {wanted} is wanted, but {here}", hint="set device: auto or cpu; see `mdp doctor`")
        return wanted
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class _Relay:
    """The listener that a plugin keeps, pointed at the listener of the task at hand."""

    target: Listener

    def progress(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        self.target.progress(done, total, metrics)

    def note(self, name: str, value: str) -> None:
        self.target.note(name, value)

    def warn(self, message: str) -> None:
        self.target.warn(message)


class _Bench:
    """What this process keeps from one task to the next: the plugins of one stage with their weights, the inputs of one step."""

    def __init__(self) -> None:
        self._hosts: dict[tuple[str, ...], PluginHost] = {}
        self._plugins: dict[str, tuple[Any, _Relay]] = {}
        self._stage = ""
        self._text = ""
        self._work: _Work | None = None

    def do(self, text: str, shard: int | None, listener: Listener) -> None:
        if self._work is None or text != self._text:
            job = Job.from_json(text)
            if job.stage != self._stage:
                self._plugins.clear()
                self._stage = job.stage
            self._work, self._text = None, text
            self._work = _Work(job, self._host(job), self.plugin)
        work = self._work
        begin_peak()
        with disk_errors(work.entry.folder):
            work.do(shard, listener)
        listener.note(PEAK_MEMORY, str(peak_memory()))

    def _host(self, job: Job) -> PluginHost:
        if job.plugin_files not in self._hosts:
            host = load_plugins([Path(f) for f in job.plugin_files])
            host.check()
            self._hosts[job.plugin_files] = host
        return self._hosts[job.plugin_files]

    def plugin(self, job: Job, listener: Listener) -> Any:
        """Returns the instance of the job's plugin, made once for equal settings and seed."""
        name = json.dumps([job.kind, job.plugin, dict(job.settings), job.seed, job.device], sort_keys=True)
        if name not in self._plugins:
            relay = _Relay()
            context = Context(job.seed, resolve_device(job.device), relay)
            self._plugins[name] = (self._host(job).create(job.kind, job.plugin, job.settings, context), relay)
        instance, relay = self._plugins[name]
        relay.target = listener
        listener.note("device", instance.context.device)
        return instance


@dataclass
class _Reading:
    """Reads images and remembers which were asked for; can be pickled, since trainings hand it to processes of their own."""

    read: Callable[[ImageRecord], Pixels]
    asked: deque[str] = field(default_factory=lambda: deque(maxlen=1024))

    def __call__(self, record: ImageRecord) -> Pixels:
        self.asked.append(record.id)
        return self.read(record)


class _Work:
    """One step with its inputs at hand."""

    def __init__(self, job: Job, host: PluginHost, plugin: Callable[[Job, Listener], Any]) -> None:
        self.job, self._plugin = job, plugin
        self.listener: Listener = Silence()
        self.entry = Entry(Path(job.entry), {})
        name, settings = job.dataset
        self.dataset = host.create("dataset", name, settings, Context())
        reading = _Reading(self.dataset.read)
        self._asked = reading.asked
        self.images = Images(read_records(Path(job.images)), reading)
        self.inputs = {slot: Entry(Path(folder), {}) for slot, folder in job.inputs.items()}
        self.shards = shards(len(self.images), job.shard_size)
        self._stored: dict[str, StoredInstances | StoredLabelMaps] = {}

    def do(self, shard: int | None, listener: Listener) -> None:
        """Does one shard, or, of a step that is done whole, everything."""
        self.listener = listener
        actions: Mapping[tuple[str, str], Callable[..., Any]] = {
            ("pretrainer", "fit"): self.fit_pretrainer,
            ("prior", "mine"): self.mine,
            ("clusterer", "embed"): self.embed,
            ("clusterer", "fit"): self.fit_clusters,
            ("clusterer", "assign"): self.assign,
            ("detector", "fit"): self.fit_detector,
            ("detector", "predict"): self.predict,
            ("refiner", "refine"): self.refine,
            ("segmenter", "fit"): self.fit_segmenter,
            ("segmenter", "select"): self.select,
            ("segmenter", "predict"): self.predict,
            ("probe", "fit"): self.fit_probe,
            ("probe", "predict"): self.predict_probe,
        }
        action: Callable[..., Any] = self.evaluate if self.job.kind == "evaluate" else actions[self.job.kind, self.job.step]
        if shard is None:
            action()
        else:
            self.shard(shard, action)

    @property
    def plugin(self) -> Any:
        return self._plugin(self.job, self.listener)

    # Inputs, opened once for all shards

    def part_files(self, slot: str) -> list[Path]:
        """Returns the parts of an input, and after them those of the images that support it."""
        more = self.inputs.get(slot + SUPPORT)
        return [*self.inputs[slot].part_files(), *(more.part_files() if more else ())]

    def read_instances(self, slot: str) -> StoredInstances:
        if slot not in self._stored:
            self._stored[slot] = StoredInstances(self.part_files(slot))
        return self._stored[slot]  # type: ignore[return-value]

    def read_label_maps(self, slot: str) -> StoredLabelMaps:
        if slot not in self._stored:
            ids = [record.id for record in self.images.records]
            self._stored[slot] = StoredLabelMaps(self.inputs[slot].label_maps(ids))
        return self._stored[slot]  # type: ignore[return-value]

    def read_predictions(self, slot: str) -> StoredInstances | StoredLabelMaps:
        """Reads instances or label maps, whichever the input made."""
        parts = self.inputs[slot].part_files()
        return self.read_label_maps(slot) if parts and parts[0].is_dir() else self.read_instances(slot)

    def read_embeddings(self, shard: range) -> list[Any]:
        """Reads the embeddings of a shard's images, whatever the shards were when they were computed."""
        source = self.inputs["embeddings"]
        parts, size = source.part_files(), source.shard_size() or 1
        first, last = shard.start // size, (shard.stop - 1) // size
        rows = [row for part in parts[first : last + 1] for row in read_embeddings(part)]
        return rows[shard.start - first * size : shard.stop - first * size]

    # Map steps: each yields one item an image of a shard

    def shard(self, number: int, produce: Produce) -> None:
        """Does one shard, unless it is there."""
        _ = self.plugin  # importing it is none of the time that an image may take
        indices = self.shards[number]
        records = [self.images.records[i] for i in indices]
        Shard(self.job, self.entry, number, indices, records, self.listener, self._asked).make(produce)

    def mine(self, shard: range) -> Iterator[Any]:
        return self.plugin.mine(self.images.subset(shard))  # type: ignore[no-any-return]

    def embed(self, shard: range) -> Iterator[Any]:
        instances = self.read_instances("instances")
        return self.plugin.embed(self.images.subset(shard), [instances[i] for i in shard])  # type: ignore[no-any-return]

    def assign(self, shard: range) -> Iterator[Instances]:
        instances, rows = self.read_instances("instances"), self.read_embeddings(shard)
        given = [r for r in rows if len(r)]
        folder = self.inputs["clusters"].result
        labels = self.plugin.assign(folder, np.concatenate(given)) if given else np.zeros(0, np.int32)
        ends = np.cumsum([len(r) for r in rows])
        for i, end, row in zip(shard, ends, rows, strict=True):
            yield instances[i].with_labels(labels[end - len(row) : end])

    def predict(self, shard: range) -> Iterator[Any]:
        return self.plugin.predict(self.model(), self.images.subset(shard))  # type: ignore[no-any-return]

    def predict_probe(self, shard: range) -> Iterator[Any]:
        model = self.model() if "model" in self.inputs else None
        return self.plugin.predict(self.inputs["probe"].result, model, self.images.subset(shard))  # type: ignore[no-any-return]

    def model(self) -> Path:
        """Returns the folder of the model that predicts: what the training left, or the snapshot that was chosen."""
        folder = self.inputs["model"].result
        return folder / chosen(self.inputs["selected"].result) if "selected" in self.inputs else folder

    def refine(self, shard: range) -> Iterator[Any]:
        given = self.read_predictions("predictions")
        predictions = given[shard.start : shard.stop]  # label maps are read when asked for: probabilities are large
        return self.plugin.refine(self.images.subset(shard), predictions)  # type: ignore[no-any-return]

    # Fit steps

    def fit(self, train: Callable[[Path], None]) -> None:
        """Calls ``train`` with an empty folder that becomes the result at the end.

        Where several processes train together, all call it; the result is rank 0's. The lock keeps out a training that outlived
        the engine which started it, for the moment that this may take.
        """
        if rank() > 0:
            self.listener = Silence()
            with tempfile.TemporaryDirectory() as scratch:
                train(Path(scratch))
            return
        self.entry.work.mkdir(parents=True, exist_ok=True)
        with FileLock(self.entry.folder / "fit.lock"), replacing(self.entry.result) as folder:
            folder.mkdir(parents=True)
            train(folder)

    def fit_pretrainer(self) -> None:
        instances = self.read_instances("instances") if "instances" in self.inputs else None

        def train(folder: Path) -> None:
            self.plugin.fit(self.images, instances, folder, self.entry.work)
            if rank() > 0:
                return
            if not (folder / BACKBONE).is_file():
                raise PluginError(f"pretrainer:{self.job.plugin} left no {BACKBONE} in step {self.job.id}")
            self.listener.note("backbone", f"sha256:{file_sha256(folder / BACKBONE)}")

        self.fit(train)

    def fit_clusters(self) -> None:
        rows = [r for part in self.part_files("embeddings") for r in read_embeddings(part) if len(r)]
        if not rows:
            raise StageError(
                f"there are no masks to cluster: the prior found none in {len(self.images)} images",
                hint="look at the prior's settings, or try another prior (`mdp plugins list`)",
            )
        self.fit(lambda folder: self.listener.note(CLUSTERS, str(int(self.plugin.fit(np.concatenate(rows), folder)))))

    def fit_detector(self) -> None:
        instances = self.read_instances("labels")
        if not any(len(i) for i in instances):
            raise StageError(f"there are no masks to learn from in {len(self.images)} images")
        self.fit(lambda folder: self.plugin.fit(self.images, instances, self.job.clusters, folder, self.entry.work))

    def fit_segmenter(self) -> None:
        maps = self.read_label_maps("labels")
        self.fit(lambda folder: self.plugin.fit(self.images, maps, self.job.clusters, folder, self.entry.work))

    # Evaluation, probes among it: the one place where ground truth is read

    def fit_probe(self) -> None:
        truth, classes = TrueLabelMaps(self.dataset, self.images), len(self.dataset.class_names)
        model = self.model() if "model" in self.inputs else None
        self.fit(lambda folder: self.plugin.fit(self.images, truth, classes, model, folder, self.entry.work))

    def select(self) -> None:
        truth = TrueLabelMaps(self.dataset, self.images)
        sizes = self.job.clusters, len(self.dataset.class_names)
        model = self.inputs["model"].result
        self.fit(lambda folder: select(self.plugin, model, self.images, truth, *sizes, folder, self.listener))

    def evaluate(self) -> None:
        from mdp_core.engine.evaluate import Evaluation

        predictions = self.read_predictions("predictions")
        objects = self.inputs["objects"].result if "objects" in self.inputs else None
        evaluation = Evaluation(self.job, self.dataset, self.images, predictions, self.listener, objects)
        self.fit(evaluation.write)


_BENCH = _Bench()
"""Plugins load their weights once a process, not once a task."""
