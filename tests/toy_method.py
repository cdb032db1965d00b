"""A one-file plugin for tests of the engine: a small real method for each stage, in numpy, without any training library.

``MDP_TOY_TRACE`` names a file to which each call that works on images adds a line; ``MDP_TOY_STALL`` names a step to stop
in for ever after its second image or iteration, so that a test can kill it there.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file

from mdp_core.api import (
    BACKBONE,
    Clusterer,
    Detector,
    GroupingPrior,
    Images,
    Instances,
    LabelMap,
    NoEffect,
    OnlyFor,
    Pretrainer,
    Probe,
    ProbeConfig,
    Refiner,
    RefinerConfig,
    Registry,
    Segmenter,
    SegmenterConfig,
    StageConfig,
    WeightsRef,
    hookimpl,
)

CALLS: dict[str, int] = {}


def trace(step: str, what: str) -> None:
    CALLS[step] = CALLS.get(step, 0) + 1
    if "MDP_TOY_TRACE" in os.environ:
        with open(os.environ["MDP_TOY_TRACE"], "a") as file:
            file.write(f"{step} {what}\n")
    if os.environ.get("MDP_TOY_STALL") == step and (CALLS[step] == 3 or step == "fit-clusters"):
        time.sleep(600)


def learned_colour(ref: str) -> np.ndarray:
    """Reads what ``mean`` learned, from ``file:PATH``."""
    return load_file(ref.removeprefix("file:"))["colour"]


class MeanConfig(StageConfig):
    iters: Annotated[int, OnlyFor("fit")] = 5
    """Iterations; each takes one image into account and can be resumed."""
    init: WeightsRef | None = None
    """Colour to start from."""
    threads: Annotated[int, NoEffect] = 1
    """Has no effect."""


class Mean(Pretrainer[MeanConfig]):
    """Learns the mean colour of the images; of their masks, where it is given some."""

    Config = MeanConfig

    def fit(self, images: Images, instances: Sequence[Instances] | None, folder: Path, work: Path) -> None:
        state, log = work / "state.json", work / "log.jsonl"
        start = learned_colour(self.config.init).tolist() if self.config.init else [0.0, 0.0, 0.0]
        done, colour = json.loads(state.read_text()) if state.exists() else (0, start)
        while done < self.config.iters:
            index = int(np.random.default_rng([self.context.seed, done]).integers(len(images)))
            pixels = images.read(index)
            if instances is not None and len(instances[index]):
                pixels = pixels[instances[index].mask(0)]
            mean = pixels.reshape(-1, 3).mean(axis=0)
            done += 1
            colour = [a + (b - a) / (done + 1) for a, b in zip(colour, mean.tolist(), strict=True)]
            metrics = {"loss": 1.0 / done, "knn@5 (%)": 10.0 * done}
            state.write_text(json.dumps([done, colour]))
            with log.open("a") as file:
                file.write(json.dumps({"iteration": done, **metrics}) + "\n")
            self.context.listener.progress(done, self.config.iters, metrics)
            trace("pretrain", str(done))
        save_file({"colour": np.array(colour, np.float32)}, folder / BACKBONE)
        (folder / "log.jsonl").write_text(log.read_text())
        Image.fromarray(np.full((8, 8, 3), colour, np.uint8)).save(folder / "curve.png")


class EmptyConfig(StageConfig):
    pass


class Empty(Pretrainer[EmptyConfig]):
    """Leaves nothing behind."""

    Config = EmptyConfig

    def fit(self, images: Images, instances: Sequence[Instances] | None, folder: Path, work: Path) -> None:
        (folder / "backbone.pth").write_bytes(b"")


def bright(pixels: np.ndarray, contrast: float, reference: np.ndarray | None = None) -> Instances:
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).astype(float)
    distance = np.abs(pixels - (np.median(border, axis=0) if reference is None else reference)).sum(axis=2)
    mask = distance > contrast * distance.mean()
    return Instances.from_masks(mask[None] if mask.any() else np.zeros((0, *mask.shape), bool))


class BrightConfig(StageConfig):
    contrast: float = 1.0
    """Pixels this much further from the border's colour than the mean are object."""
    weights: WeightsRef | None = None
    """A learned colour, in place of the border's."""


class Bright(GroupingPrior[BrightConfig]):
    Config = BrightConfig

    def mine(self, images: Images) -> Iterator[Instances]:
        reference = None
        if self.config.weights is not None:
            reference = learned_colour(self.config.weights)
            self.context.listener.note("weights", f"{self.config.weights} colour:{[round(float(c)) for c in reference]}")
        for record, pixels in zip(images.records, images, strict=True):
            trace("mine", record.id)
            yield bright(pixels, self.config.contrast, reference)


class ColourConfig(StageConfig):
    clusters: Annotated[int, OnlyFor("fit")] = 3
    """Number of clusters."""


class Colour(Clusterer[ColourConfig]):
    Config = ColourConfig

    def embed(self, images: Images, instances: Sequence[Instances]) -> Iterator[np.ndarray]:
        for record, pixels, found in zip(images.records, images, instances, strict=True):
            trace("embed", record.id)
            yield np.array([pixels[mask].mean(axis=0) for mask in found.to_masks()], np.float32).reshape(-1, 3)

    def fit(self, embeddings: np.ndarray, folder: Path) -> int:
        trace("fit-clusters", str(len(embeddings)))
        rng = np.random.default_rng(self.context.seed)
        centres = embeddings[rng.choice(len(embeddings), self.config.clusters, replace=False)]
        for _ in range(20):
            nearest = np.linalg.norm(embeddings[:, None] - centres[None], axis=2).argmin(axis=1)
            centres = np.stack(
                [embeddings[nearest == c].mean(axis=0) if (nearest == c).any() else centres[c] for c in range(len(centres))]
            )
        np.save(folder / "centres.npy", centres)
        return self.config.clusters

    def assign(self, folder: Path, embeddings: np.ndarray) -> np.ndarray:
        centres = np.load(folder / "centres.npy")
        return np.linalg.norm(embeddings[:, None] - centres[None], axis=2).argmin(axis=1).astype(np.int32)


class MemoryConfig(StageConfig):
    iters: Annotated[int, OnlyFor("fit")] = 5
    """Iterations; each takes one image into account and can be resumed."""


class Memory(Detector[MemoryConfig]):
    """Remembers the mean colour of each cluster; predicts the bright region with the nearest one."""

    Config = MemoryConfig

    def fit(self, images: Images, instances: Sequence[Instances], clusters: int, folder: Path, work: Path) -> None:
        state = work / "state.json"
        done, sums = json.loads(state.read_text()) if state.exists() else (0, [[0.0] * 4 for _ in range(clusters)])
        while done < self.config.iters:
            index = int(np.random.default_rng([self.context.seed, done]).integers(len(images)))
            pixels = images.read(index)
            for i, label in enumerate(instances[index].labels):
                mean = pixels[instances[index].mask(i)].mean(axis=0)
                sums[label] = [a + b for a, b in zip(sums[label], [*mean, 1.0], strict=True)]
            done += 1
            state.write_text(json.dumps([done, sums]))
            self.context.listener.progress(done, self.config.iters, {"loss": 1.0 / done})
            trace("fit", str(done))
        (folder / "sums.json").write_text(json.dumps(sums))
        self.context.listener.note("weights", "none: it remembers colours")

    def predict(self, folder: Path, images: Images) -> Iterator[Instances]:
        sums = np.array(json.loads((folder / "sums.json").read_text()))
        means = sums[:, :3] / np.maximum(sums[:, 3:], 1)
        for record, pixels in zip(images.records, images, strict=True):
            trace("predict", record.id)
            found = bright(pixels, 1.0)
            label = np.linalg.norm(means - pixels[found.mask(0)].mean(axis=0), axis=1).argmin() if len(found) else 0
            score = 0.5 + 0.5 * (int(record.id[-1]) % 2)
            yield Instances.from_masks(found.to_masks(), labels=[label] * len(found), scores=[score] * len(found))


class KeepConfig(RefinerConfig):
    accepts: ClassVar[tuple[str, ...]] = ("instances", "label-maps")
    threshold: float = 0.6
    """Lowest score that is kept."""


class Keep(Refiner[KeepConfig]):
    Config = KeepConfig

    def refine(self, images: Images, predictions: Sequence[Instances] | Sequence[LabelMap]) -> Iterator[LabelMap]:
        for record, found in zip(images.records, predictions, strict=True):
            trace("refine", record.id)
            yield LabelMap.paint(found.select(found.scores >= self.config.threshold)) if isinstance(found, Instances) else found


class TableConfig(SegmenterConfig):
    snapshots: Annotated[int, OnlyFor("fit")] = 0
    """Keep a state after every so many images."""

    @property
    def keeps_snapshots(self) -> bool:
        return self.snapshots > 0


class Table(Segmenter[TableConfig]):
    """Learns the most frequent label of each coarse colour."""

    Config = TableConfig

    def fit(self, images: Images, label_maps: Sequence[LabelMap], clusters: int, folder: Path, work: Path) -> None:
        counts = np.zeros((512, clusters + 1), np.int64)
        for index, pixels in enumerate(images):
            np.add.at(counts, (self._bins(pixels).ravel(), label_maps[index].values.ravel()), 1)
            trace("segment", str(index))
            if self.config.snapshots and (index + 1) % self.config.snapshots == 0:
                early = folder / "snapshots" / f"{index + 1:03d}"
                early.mkdir(parents=True)
                np.save(early / "table.npy", counts.argmax(axis=1).astype(np.uint8))
        np.save(folder / "table.npy", counts.argmax(axis=1).astype(np.uint8))

    def snapshots(self, folder: Path) -> dict[str, Path]:
        return {f"image {early.name}": early for early in sorted((folder / "snapshots").glob("*"))}

    def predict(self, folder: Path, images: Images) -> Iterator[LabelMap]:
        table = np.load(folder / "table.npy")
        for pixels in images:
            yield LabelMap(table[self._bins(pixels)])

    @staticmethod
    def _bins(pixels: np.ndarray) -> np.ndarray:
        r, g, b = (pixels[..., c].astype(np.int64) // 32 for c in range(3))
        return r * 64 + g * 8 + b


class NamesConfig(ProbeConfig):
    network: bool = True
    """Whether it reads the segmenter's labels; otherwise it knows colours alone."""

    @property
    def reads_segmenter(self) -> bool:
        return self.network


class Names(Probe[NamesConfig]):
    """Learns the most frequent class of each label that the segmenter gives, or of each coarse colour."""

    Config = NamesConfig

    def fit(
        self, images: Images, truth: Sequence[LabelMap | None], classes: int, model: Path | None, folder: Path, work: Path
    ) -> None:
        counts = np.zeros((512, classes), np.int64)
        for index, pixels in enumerate(images):
            true = truth[index]
            if true is not None:
                np.add.at(counts, (self._seen(pixels, model).ravel(), true.values.ravel()), 1)
        np.save(folder / "names.npy", counts.argmax(axis=1).astype(np.uint8))

    def predict(self, folder: Path, model: Path | None, images: Images) -> Iterator[LabelMap]:
        names = np.load(folder / "names.npy")
        for pixels in images:
            yield LabelMap(names[self._seen(pixels, model)])

    def _seen(self, pixels: np.ndarray, model: Path | None) -> np.ndarray:
        bins = Table._bins(pixels)
        return bins if model is None else np.load(model / "table.npy")[bins].astype(np.int64)


class CrashConfig(StageConfig):
    how: str = "raise"
    """raise, exit, few (yields too few), size (wrong size), nan (score), empty (mask), many (masks), late-raise, sleep, stubborn
    and busy (at the third image)."""


class Crash(GroupingPrior[CrashConfig]):
    Config = CrashConfig

    def mine(self, images: Images) -> Iterator[Instances]:
        how = self.config.how
        if how == "raise":
            raise RuntimeError("something in the plugin is wrong")
        if how == "exit":
            os._exit(3)
        for index, record in enumerate(images.records[: len(images) - (how == "few")]):
            pixels = images.read(index)
            trace("crash", record.id)
            if record.id.endswith("00002") and how in ("late-raise", "sleep", "stubborn", "busy"):
                self._fail(how)
            masks = np.zeros((1, record.height + (how == "size"), record.width), bool)
            masks[:, 1:9, 1:9] = how != "empty"
            if how == "many":
                masks = np.repeat(pixels[None, ..., 0] >= np.median(pixels[..., 0]), 1000, axis=0)
            yield Instances.from_masks(masks, scores=np.full(len(masks), np.nan if how == "nan" else 0.5))

    def _fail(self, how: str) -> None:
        if how == "late-raise":
            raise ZeroDivisionError("one by none")
        if how == "sleep":
            time.sleep(600)
        if how == "stubborn":
            while True:
                try:
                    time.sleep(600)
                except Exception:
                    continue
        any(itertools.repeat(0, 10**12))  # an hour in compiled code that holds Python's lock


@hookimpl
def mdp_register(registry: Registry) -> None:
    registry.add("pretrainer", "mean", factory=":Mean", summary="the mean colour")
    registry.add("pretrainer", "empty", factory=":Empty")
    registry.add("prior", "bright", factory=":Bright", summary="what differs from the border")
    registry.add("prior", "crash", factory=":Crash")
    registry.add("clusterer", "colour", factory=":Colour")
    registry.add("detector", "memory", factory=":Memory")
    registry.add("refiner", "keep", factory=":Keep")
    registry.add("segmenter", "table", factory=":Table")
    registry.add("probe", "names", factory=":Names")
