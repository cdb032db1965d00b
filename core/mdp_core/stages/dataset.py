"""Dataset: where images come from, and, for evaluation alone, their ground truth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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


class Dataset(Stage[ConfigT], ABC):
    """Images in named splits.

    The engine gives plugins of other stages ``read`` alone; ``label_map`` and ``instances`` reach evaluation only.
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
