"""A family of plugins, each wrong in one way; the class is named after the check that must find it, or begins with its name."""

# ruff: noqa: N801 - classes are named as the checks are

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import PlainSerializer, PrivateAttr

from mdp_core.api import (
    BACKBONE,
    Clusterer,
    DataError,
    Dataset,
    DatasetConfig,
    Detector,
    Executor,
    GroupingPrior,
    Instances,
    LabelMap,
    MdpError,
    Observer,
    Pretrainer,
    Refiner,
    RefinerConfig,
    Registry,
    Source,
    StageConfig,
    hookimpl,
)


class PlainConfig(StageConfig):
    seeded_steps: ClassVar[tuple[str, ...]] = ()


def bright(pixels: np.ndarray, score: float = 0.5) -> Instances:
    """Finds what is far from grey."""
    mask = np.ptp(pixels.astype(int), axis=2) > 60
    return Instances.from_masks(
        mask[None] if mask.any() else np.zeros((0, *mask.shape), bool), scores=[score] * int(mask.any())
    )


class right(GroupingPrior[Any]):
    """Does everything as it should; the wrong ones change one thing."""

    Config = PlainConfig

    def mine(self, images: Any) -> Iterator[Instances]:
        for record, pixels in zip(images.records, images, strict=True):
            yield self.one(record.id, pixels, len(images))

    def one(self, name: str, pixels: np.ndarray, count: int) -> Instances:
        return bright(pixels)


class NeedsConfig(StageConfig):
    where: str
    """A setting that has no default."""


class builds_from_settings(right):
    Config = NeedsConfig


class RoundedConfig(StageConfig):
    share: Annotated[float, PlainSerializer(lambda value: round(value, 1))] = 0.25
    """Written with one digit."""


class settings_survive_yaml(right):
    Config = RoundedConfig


class SilentConfig(StageConfig):
    share: float = 0.25


class settings_are_documented(right):
    Config = SilentConfig


class TakenConfig(StageConfig):
    input: str = "x"
    """A recipe says with it which stage comes before."""


class settings_fit_a_recipe(right):
    Config = TakenConfig


class TypoConfig(StageConfig):
    seeded_steps: ClassVar[tuple[str, ...]] = ("mien",)


class declares_what_keys_need(right):
    Config = TypoConfig


class VersionConfig(StageConfig):
    cache_version: ClassVar[int] = 0


class declares_what_keys_need_version(right):
    Config = VersionConfig


class LockedConfig(PlainConfig):
    _lock: Any = PrivateAttr(default_factory=threading.Lock)


class pickles(right):
    Config = LockedConfig


class works_on_scenes(right):
    def one(self, name: str, pixels: np.ndarray, count: int) -> Instances:
        raise RuntimeError("nothing works here")


class one_result_an_image(right):
    def mine(self, images: Any) -> Iterator[Instances]:
        yield from list(super().mine(images))[:7]


class one_result_an_image_of_its_size(right):
    def one(self, name: str, pixels: np.ndarray, count: int) -> Instances:
        return bright(pixels.swapaxes(0, 1) if name == "scene-3" else pixels)


class finds_something(right):
    def one(self, name: str, pixels: np.ndarray, count: int) -> Instances:
        return Instances.empty(*pixels.shape[:2])


class masks_are_not_empty(right):
    def one(self, name: str, pixels: np.ndarray, count: int) -> Instances:
        if name != "scene-2":
            return bright(pixels)
        return Instances.from_masks(np.zeros((1, *pixels.shape[:2]), bool), boxes=np.array([[0, 0, 5, 5]]))


class boxes_lie_in_the_image(right):
    def one(self, name: str, pixels: np.ndarray, count: int) -> Instances:
        found = bright(pixels)
        if name == "scene-2":
            found.boxes[:] = found.boxes[:, [1, 0, 3, 2]] * 2
        return found


class scores_are_shares(right):
    def one(self, name: str, pixels: np.ndarray, count: int) -> Instances:
        return bright(pixels, float("nan") if name == "scene-2" else 0.5)


class scores_are_shares_in_float32(right):
    def one(self, name: str, pixels: np.ndarray, count: int) -> Instances:
        found = bright(pixels)
        if name == "scene-2":
            object.__setattr__(found, "scores", found.scores.astype(np.float64))
        return found


class labels_are_in_range(right):
    def one(self, name: str, pixels: np.ndarray, count: int) -> Instances:
        found = bright(pixels)
        return found.with_labels(np.zeros(len(found))) if name == "scene-2" else found


class same_seed_same_result(right):
    def one(self, name: str, pixels: np.ndarray, count: int) -> Instances:
        return bright(pixels, 0.5 + random.Random(os.urandom(8)).random() / 10_000)


class batches_do_not_matter(right):
    def one(self, name: str, pixels: np.ndarray, count: int) -> Instances:
        return bright(pixels, 1 / count)


class works_in_a_new_process(right):
    def one(self, name: str, pixels: np.ndarray, count: int) -> Instances:
        return bright(pixels, 0.5 if "pytest" in sys.modules else 0.9)


class survives_tiny_images(right):
    def one(self, name: str, pixels: np.ndarray, count: int) -> Instances:
        assert pixels[7, 5] is not None  # there is no such pixel in a tiny image
        return bright(pixels)


class survives_plain_images(right):
    def one(self, name: str, pixels: np.ndarray, count: int) -> Instances:
        if pixels.size > 1000 and not np.ptp(pixels):
            raise ValueError("no two pixels differ")
        return bright(pixels)


class survives_large_images(right):
    def one(self, name: str, pixels: np.ndarray, count: int) -> Instances:
        if pixels.size > 1_000_000:
            raise MemoryError("too large")
        return bright(pixels)


class survives_no_images(right):
    def mine(self, images: Any) -> Iterator[Instances]:
        max(record.height for record in images.records)
        yield from super().mine(images)


class inputs_are_left_alone(right):
    def one(self, name: str, pixels: np.ndarray, count: int) -> Instances:
        pixels[0, 0] = 0
        return bright(pixels)


class the_process_is_left_alone(right):
    def one(self, name: str, pixels: np.ndarray, count: int) -> Instances:
        np.random.seed(0)
        return bright(pixels)


class prints_nothing(right):
    def one(self, name: str, pixels: np.ndarray, count: int) -> Instances:
        print("mining", name)
        return bright(pixels)


class no_runtime_warnings(right):
    def one(self, name: str, pixels: np.ndarray, count: int) -> Instances:
        spread = np.float64(np.ptp(pixels))
        return bright(pixels, float(np.nan_to_num(spread / spread)) / 2)


class stays_on_its_device(right):
    def one(self, name: str, pixels: np.ndarray, count: int) -> Instances:
        import torch

        torch.ones(1, device="cuda" if torch.cuda.is_available() else "cpu")
        return bright(pixels)


class LearnsConfig(StageConfig):
    pass


class right_clusterer(Clusterer[Any]):
    """One cluster for dark means, one for bright ones."""

    Config = LearnsConfig

    def embed(self, images: Any, instances: Any) -> Iterator[np.ndarray]:
        for record, pixels, found in zip(images.records, images, instances, strict=True):
            yield self.vectors(
                record.id, np.array([pixels[m].mean(axis=0) for m in found.to_masks()], np.float32).reshape(-1, 3)
            )

    def vectors(self, name: str, rows: np.ndarray) -> np.ndarray:
        return rows

    def fit(self, embeddings: np.ndarray, folder: Path) -> int:
        (folder / "mean").write_text(str(float(embeddings.mean())))
        return 2

    def assign(self, folder: Path, embeddings: np.ndarray) -> np.ndarray:
        return (embeddings.mean(axis=1) > float((folder / "mean").read_text())).astype(np.int32)


class embeddings_are_vectors(right_clusterer):
    def vectors(self, name: str, rows: np.ndarray) -> np.ndarray:
        return rows.astype(np.float64) if name == "scene-2" else rows


class fit_writes_into_its_folders_alone(right_clusterer):
    def fit(self, embeddings: np.ndarray, folder: Path) -> int:
        Path("training.log").write_text("here I am")
        return super().fit(embeddings, folder)


class predicting_leaves_the_model_alone(right_clusterer):
    def assign(self, folder: Path, embeddings: np.ndarray) -> np.ndarray:
        (folder / "cache").write_text("quick")
        return super().assign(folder, embeddings)


class models_can_be_moved(right_clusterer):
    def fit(self, embeddings: np.ndarray, folder: Path) -> int:
        (folder / "where").write_text(str(folder))
        return super().fit(embeddings, folder)

    def assign(self, folder: Path, embeddings: np.ndarray) -> np.ndarray:
        return super().assign(Path((folder / "where").read_text()), embeddings)


class ThroughConfig(RefinerConfig):
    accepts: ClassVar[tuple[str, ...]] = ("label-maps",)


class label_maps_are_right(Refiner[Any]):
    Config = ThroughConfig

    def refine(self, images: Any, predictions: Any) -> Iterator[LabelMap]:
        for record, given in zip(images.records, predictions, strict=True):
            yield LabelMap(given.values + np.uint8(9 * (record.id == "scene-2")))


class interrupted_trainings_resume(Detector[Any]):
    """Keeps its counter when it is interrupted, and forgets what it drew."""

    Config = LearnsConfig

    def fit(self, images: Any, instances: Any, clusters: int, folder: Path, work: Path) -> None:
        state, rng = work / "done", np.random.default_rng(self.context.seed)
        done, total = int(state.read_text()) if state.exists() else 0, 0.0
        while done < 10:
            total += rng.random() / 10
            done += 1
            state.write_text(str(done))
            self.context.listener.progress(done, 10, {})
        (folder / "total").write_text(str(total))

    def predict(self, folder: Path, images: Any) -> Iterator[Instances]:
        for pixels in images:
            found = bright(pixels, float((folder / "total").read_text()))
            yield found.with_labels(np.zeros(len(found)))


class leaves_equal_weights(Pretrainer[Any]):
    Config = LearnsConfig

    def fit(self, images: Any, instances: Any, folder: Path, work: Path) -> None:
        (folder / BACKBONE).write_bytes(os.urandom(8))


class right_dataset(Dataset[Any]):
    Config = DatasetConfig
    ids = ("a", "b")

    def sources(self, split: str) -> Iterator[Source]:
        if split not in ("train", "val"):
            self.refuse(split)
        yield from (Source(name, size=(20, 30), content=name) for name in self.ids)

    def refuse(self, split: str) -> None:
        raise DataError(f"no split {split!r}: there are train and val")

    def read(self, record: Any) -> np.ndarray:
        return np.zeros((20, 30, 3), np.uint8)

    @property
    def class_names(self) -> tuple[str, ...]:
        return "background", "thing"

    def label_map(self, record: Any) -> LabelMap:
        return LabelMap.background(20, 30)


class lists_its_images(right_dataset):
    ids = ("a", "a")


class reads_its_images(right_dataset):
    def read(self, record: Any) -> np.ndarray:
        return np.zeros((20, 30, 3), np.float32)


class ground_truth_is_right(right_dataset):
    def label_map(self, record: Any) -> LabelMap:
        return LabelMap(np.full((20, 30), 7, np.uint8))


class unknown_splits_are_named(right_dataset):
    def refuse(self, split: str) -> None:
        raise KeyError(split)


class does_all_tasks(Executor[Any]):
    Config = LearnsConfig
    last: ClassVar[int] = 2

    def run(self, tasks: Any, log: Path, listener: Any) -> None:
        class Ear:
            def progress(self, *_: Any) -> None: ...
            def warn(self, *_: Any) -> None: ...

            def note(self, name: str, value: str) -> None:
                listener.note(tasks[0], name, value)

        for task in tasks[: self.last]:
            try:
                task.do(Ear())
            except MdpError as error:
                self.failed(task, error)

    def failed(self, task: Any, error: MdpError) -> None:
        raise task.failed(error)


class tells_of_failed_tasks(does_all_tasks):
    last = 3

    def failed(self, task: Any, error: MdpError) -> None:
        pass


class hooks_are_known(Observer):
    Config = LearnsConfig

    @hookimpl
    def mdp_run_finishd(self, run: Any) -> None:
        """Misspelt."""


KINDS = {GroupingPrior: "prior", Clusterer: "clusterer", Refiner: "refiner", Detector: "detector", Pretrainer: "pretrainer",
         Dataset: "dataset", Executor: "executor", Observer: "observer"}  # fmt: skip


def wrong() -> dict[str, str]:
    """Class name → kind of all plugins of this file."""
    found = {}
    for name, value in list(globals().items()):
        if isinstance(value, type) and value.__module__ == __name__ and not name.endswith("Config"):
            found[name] = next(kind for base, kind in KINDS.items() if issubclass(value, base))
    return found


@hookimpl
def mdp_register(registry: Registry) -> None:
    for name, kind in wrong().items():
        registry.add(kind, name.replace("_", "-"), factory=f":{name}")
