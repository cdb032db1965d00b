"""Training pairs for plugins that learn label maps: an image and its labels, augmented together."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mdp_core.api import Images, LabelMap, Pixels, StageError
from mdp_mmengine.augmentation import Augmentation, augment

__all__ = ["IGNORE_INDEX", "Scenes"]

IGNORE_INDEX = -1
"""Label of pixels that do not count in a loss, whatever value stood for them in a label map."""


@dataclass(frozen=True)
class Scenes:
    """Makes the training pair of an index; all chance comes from Python's random state.

    Attributes:
        images: The training images.
        label_maps: One an image, at its size, labelled 0..highest or ignore.
        highest: The highest label.
        augmentation: Ranges of the augmentation.
        border: Label of the border that augmentation brings in.
        labels_are: What labels above 0 stand for, in messages.
    """

    images: Images
    label_maps: Sequence[LabelMap]
    highest: int
    augmentation: Augmentation
    border: Literal["background", "ignore"]
    labels_are: str = "clusters"

    def draw(self, index: int) -> tuple[Pixels, NDArray[np.int64]]:
        """Returns uint8 (size, size, 3) RGB and labels (size, size), 0..highest or ``IGNORE_INDEX``.

        Raises:
            StageError: The label map is of another size than the image, or holds a label that is too high.
            DataError: The image cannot be read.
        """
        image, labels = self.images.read(index), self.label_maps[index]
        if labels.size != image.shape[:2]:
            raise StageError(
                f"{self.images.records[index].id}: its label map is {labels.size[1]}×{labels.size[0]} px, "
                f"the image {image.shape[1]}×{image.shape[0]}"
            )
        border = labels.ignore if self.border == "ignore" else 0
        rng = np.random.default_rng(random.getrandbits(64))
        pixels, values = augment(image, labels.values, self.augmentation, border, rng)
        return pixels, self._targets(values, labels.ignore, index)

    def _targets(self, values: NDArray[Any], ignore: int, index: int) -> NDArray[np.int64]:
        targets = values.astype(np.int64)
        targets[values == ignore] = IGNORE_INDEX
        found = int(targets.max())
        if found > self.highest:
            raise StageError(
                f"{self.images.records[index].id}: its label map holds label {found}, "
                f"but there are {self.highest} {self.labels_are}"
            )
        return targets
