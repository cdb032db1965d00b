"""Settings of the datasets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from mdp_core.api import DatasetConfig


class ShapesConfig(DatasetConfig):
    """Scenes that are generated on the fly from a seed; nothing lies on disk."""

    trial: ClassVar[Mapping[str, Any]] = {"size": 48, "train_images": 8, "val_images": 4}

    train: Literal["train", "val"] = "train"
    """Split that the method learns from."""
    eval: Literal["train", "val"] | None = "val"
    """Split that the results are evaluated on; null: no evaluation."""
    level: Literal["easy", "hard", "mixed"] = "easy"
    """easy: each class has its own range of colours, backgrounds are plain. hard: colours say nothing about the class,
    backgrounds carry stripes, checks, dots or grain as the objects do. mixed: the first scene of a split is easy, the second
    hard, and so on in turns."""
    size: int = Field(128, ge=32, le=4096)
    """Side of the square images, in pixels."""
    train_images: int = Field(400, ge=1, le=1_000_000)
    """Number of images in the split ``train``. Image i is the same however many there are."""
    val_images: int = Field(100, ge=1, le=1_000_000)
    """Number of images in the split ``val``; it shares no scene with ``train``."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the scenes. It is not the recipe's seed: runs with several seeds see the same images."""
    objects: tuple[int, int] = (1, 3)
    """Smallest and largest number of objects drawn in a scene. An object that later ones nearly hide is left out."""

    @field_validator("objects")
    @classmethod
    def _ordered(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] <= value[1] <= 8:
            raise ValueError("objects are written [smallest, largest], each from 1 to 8")
        return value


class FolderConfig(DatasetConfig):
    """Any folder of images."""

    root: Path
    """The folder. Images in folders below it count too; hidden files and folders do not."""
    train: Literal["all"] = "all"
    """The one split there is."""
    eval: Literal["all"] | None = None
    """Images to apply the results to; there is no ground truth to compare with."""


class VocConfig(DatasetConfig):
    """PASCAL VOC segmentation.

    A split is the name of a list under ImageSets/Segmentation without ``.txt``, or of another folder there (``Main/trainval``); with
    a year before it (``2007:Main/trainval``) of the folder of that year; and several joined by ``+``.
    """

    root: Path
    """Folder that contains VOC2012, or the folder VOC2012 itself."""
    year: int = Field(2012, ge=2007, le=2012)
    """Year of the challenge; names the folder ``VOC<year>``."""
    train: str = "trainaug"
    """Name of a list under ImageSets/Segmentation, without ``.txt``. A list ``trainaug`` that is missing is that of mdp, where
    SegmentationClassAug is there."""
    eval: str | None = "val"
    """Name of a list under ImageSets/Segmentation, without ``.txt``; null: no evaluation."""
    labels: Literal["auto", "SegmentationClass", "SegmentationClassAug"] = "auto"
    """Folder of the class maps. auto decides file by file: SegmentationClass where it has the file, as the official protocol
    for val wants, otherwise SegmentationClassAug."""


class CocoConfig(DatasetConfig):
    """COCO, or any other images with annotations in its format."""

    root: Path
    """Folder of the dataset: with train2017, val2017 and annotations in it, as COCO is distributed."""
    train: str = "train2017"
    """Split that the method learns from: a folder of images below root (or root/images). It needs no annotations."""
    eval: str | None = "val2017"
    """Split that the results are evaluated on, with annotations in annotations/instances_<split>.json; null: no evaluation."""
    images: dict[str, Path] = Field(default_factory=dict)
    """Folder of a split's images where it is another one than root/<split>: {train: photos}. Relative to root."""
    annotations: dict[str, Path] = Field(default_factory=dict)
    """File of a split's annotations where it is another one than annotations/instances_<split>.json. Relative to root."""
    subset: str | dict[str, str] | None = None
    """Keep only some images of train and eval: the name of a list that comes with mdp (coco20k), or a text file with one image a
    line. {SPLIT: LIST} has a list for each split. null: all images."""
    missing: Literal["error", "skip"] = "error"
    """Images of the subset that the split does not have: stop and name some, or leave them out."""
