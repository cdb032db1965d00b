"""Dataset: where images come from, and, for evaluation alone, their ground truth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mdp_core.data.images import ImageRecord, Pixels, read_image
from mdp_core.data.instances import Instances
from mdp_core.data.label_map import LabelMap
from mdp_core.settings import StageConfig
from mdp_core.stages.base import ConfigT, Stage


class DatasetConfig(StageConfig):
    """Settings that every dataset has; a dataset adds its own.

    Keys of steps hold the contents of the images, not the settings that found them: what else the pixels or labels of an
    image depend on goes into ``Source.content``.
    """

    train: str = "train"
    """Split that the method learns from. Its labels, if any, are never read."""
    eval: str | None = "val"
    """Split that the results are evaluated on, with its labels; null: no evaluation."""
    support: str | None = None
    """Split of further images, without labels, that the clusterer and the detector learn from as well (the paper adds VOC2007
    to VOC2012); null: none. The segmenter learns from ``train`` alone."""
    on_bad_image: Literal["skip", "error"] = "skip"
    """An image that cannot be read: skip it and list it, or stop before any work."""
    min_side: int = Field(16, ge=1)
    """Images with a side shorter than this (pixels) count as bad."""


@dataclass(frozen=True)
class Source:
    """One image as the dataset finds it, before anyone has opened it.

    Attributes:
        id: Unique name within the dataset; a relative path at most.
        path: The image file, or None where the image is generated.
        size: (height, width) where the image is generated, otherwise None.
        content: A string that stands for the contents of a generated image; None where the file's contents count.
        truth: Files with this image's ground truth (their contents enter the key of evaluations only).
    """

    id: str
    path: Path | None = None
    size: tuple[int, int] | None = None
    content: str | None = None
    truth: tuple[Path, ...] = ()


@dataclass(frozen=True, eq=False)
class TrueBoxes:
    """The true objects of an image as boxes.

    Attributes:
        boxes: float32 (n, 4), x0 y0 x1 y1 in pixels, ends exclusive.
        labels: int32 (n,), indices of ``class_names`` less background (0 = the first object class).
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]


class Dataset(Stage[ConfigT], ABC):
    """Images in named splits.

    The engine gives plugins of other stages ``read`` alone; the others reach evaluation (and probes, which are one) only.
    """

    kind = "dataset"

    @abstractmethod
    def sources(self, split: str) -> Iterator[Source]:
        """Yields the images of a split, in a fixed order that does not depend on the file system.

        Raises:
            DataError: The root or the split does not exist; the message names what was looked for and what is there.
        """

    def read(self, record: ImageRecord) -> Pixels:
        """Reads one image: uint8 (H, W, 3) RGB after EXIF orientation. Generated images override this."""
        if record.path is None:
            raise ValueError(f"{record.id} has no file and {type(self).__name__} does not override read()")
        return read_image(record.path)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the ground truth's classes, background first; empty where there is no ground truth."""
        return ()

    def label_map(self, record: ImageRecord) -> LabelMap | None:
        """Ground truth for evaluation: values index ``class_names``, 255 = ignore. None where there is none."""
        return None

    def instances(self, record: ImageRecord) -> Instances | None:
        """Ground truth for evaluation: labels index ``class_names`` less background (0 = the first object class)."""
        return None

    def crowds(self, record: ImageRecord) -> Instances | None:
        """Regions of many objects that nobody told apart (COCO's ``iscrowd``): to find something there is neither right nor wrong."""
        return None

    def boxes(self, record: ImageRecord) -> TrueBoxes | None:
        """True objects as boxes, for matching clusters with classes on objects; those of ``instances`` unless overridden."""
        objects = self.instances(record)
        return None if objects is None else TrueBoxes(objects.boxes, objects.labels)
