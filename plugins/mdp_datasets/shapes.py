"""Shapes: generated scenes with exact ground truth, for a first look, for tests and for ablations that need labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from mdp_core.api import Dataset, ImageRecord, Instances, LabelMap, Pixels, Source
from mdp_datasets.places import unknown_split
from mdp_datasets.scenes import KINDS, VERSION, Level, Scene, scene
from mdp_datasets.settings import ShapesConfig

_SPLITS = ("train", "val")
_TURNS: tuple[Level, Level] = ("easy", "hard")


class Shapes(Dataset[ShapesConfig]):
    """Scenes with one to three objects of five classes, each a shape with its own texture.

    Ids are ``train/00000``, ``val/00000`` and so on. Scenes take turns in one sequence (even numbers for train, odd ones for
    val), so the splits are disjoint and no scene depends on how many images a split has.
    """

    Config = ShapesConfig

    def sources(self, split: str) -> Iterator[Source]:
        """Yields the scenes of a split.

        Raises:
            DataError: The split is neither ``train`` nor ``val``.
        """
        if split not in _SPLITS:
            raise unknown_split(split, _SPLITS, "dataset shapes")
        config = self.config
        count = config.train_images if split == "train" else config.val_images
        low, high = config.objects
        for number in range(count):
            name = f"{split}/{number:05d}"
            level = _level(name, config.level)
            drawn = f"seed={config.seed} index={_index(name)} level={level} size={config.size} objects={low}-{high}"
            yield Source(id=name, size=(config.size, config.size), content=f"shapes version={VERSION} {drawn}")

    def read(self, record: ImageRecord) -> Pixels:
        """Generates one image: uint8 (size, size, 3) RGB."""
        return self.scene(record).image

    @property
    def class_names(self) -> tuple[str, ...]:
        """Background and the five classes."""
        return ("background", *(kind.name for kind in KINDS))

    def label_map(self, record: ImageRecord) -> LabelMap:
        """Class of each pixel, 0 background; there is no ignored pixel."""
        drawn = self.scene(record)
        values = np.zeros((record.height, record.width), np.uint8)
        for mask, label in zip(drawn.masks, drawn.labels, strict=True):
            values[mask] = label + 1
        return LabelMap(values)

    def instances(self, record: ImageRecord) -> Instances:
        """The visible part of each object."""
        drawn = self.scene(record)
        return Instances.from_masks(drawn.masks, labels=drawn.labels)

    def scene(self, record: ImageRecord) -> Scene:
        """Generates the scene of one record, image and ground truth together."""
        config = self.config
        return scene(config.seed, _index(record.id), _level(record.id, config.level), config.size, config.objects)


def _level(name: str, level: Literal["easy", "hard", "mixed"]) -> Level:
    """Returns the level of one scene; those of ``mixed`` take turns."""
    return _TURNS[int(name.partition("/")[2]) % len(_TURNS)] if level == "mixed" else level


def _index(name: str) -> int:
    """Returns the number of a scene in the one sequence that all splits share."""
    split, _, number = name.partition("/")
    return int(number) * len(_SPLITS) + _SPLITS.index(split)
