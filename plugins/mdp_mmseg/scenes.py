"""Training samples: an image and its label map, augmented, in the form that MMSegmentation takes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from numpy.typing import NDArray

from mdp_core.api import Images, LabelMap, StageError
from mdp_mmseg.augmentation import Augmentation, augment
from mdp_mmseg.hard_pixels import IGNORE_INDEX


@dataclass(frozen=True)
class Scenes:
    """Makes the training sample of an index; all chance comes from Python's random state.

    Attributes:
        images: The training images.
        label_maps: One a image, at its size, labelled 0..clusters or ignore.
        clusters: Number of clusters C.
        augmentation: Ranges of the augmentation.
        border: Label of the border that augmentation brings in.
    """

    images: Images
    label_maps: Sequence[LabelMap]
    clusters: int
    augmentation: Augmentation
    border: Literal["background", "ignore"]

    def check(self) -> None:
        """Checks what can be checked cheaply: counts, and that there is anything to learn.

        Raises:
            StageError: No images, not one label map an image, or not one labelled pixel.
        """
        if not len(self.images):
            raise StageError("the segmenter was given no training images", hint="look at the dataset of the recipe (data)")
        if len(self.images) != len(self.label_maps):
            raise StageError(f"{len(self.images)} images, but {len(self.label_maps)} label maps")
        if not any(_has_objects(labels) for labels in self.label_maps):
            raise StageError(
                f"none of the {len(self.label_maps)} label maps has a pixel of any cluster: there is nothing to learn",
                hint="the stage that made them (usually the refiner) kept no mask; lower its threshold, "
                "or look at the masks of the stages before it: detector, clusterer, prior",
            )

    def __call__(self, index: int) -> dict[str, Any]:
        """Returns ``inputs``, uint8 (3, size, size) RGB, and ``data_samples`` with int64 labels (1, size, size).

        Raises:
            StageError: The label map is of another size than the image, or holds a label above C.
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
        sample = SegDataSample()
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(self._targets(values, labels.ignore, index))[None])
        return {"inputs": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), "data_samples": sample}

    def _targets(self, values: NDArray[Any], ignore: int, index: int) -> NDArray[np.int64]:
        targets = values.astype(np.int64)
        targets[values == ignore] = IGNORE_INDEX
        highest = int(targets.max())
        if highest > self.clusters:
            raise StageError(
                f"{self.images.records[index].id}: its label map holds label {highest}, but there are {self.clusters} clusters"
            )
        return targets


def _has_objects(labels: LabelMap) -> bool:
    return bool(((labels.values > 0) & (labels.values != labels.ignore)).any())
