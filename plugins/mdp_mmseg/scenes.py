"""Training samples in the form that MMSegmentation takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mdp_core.api import LabelMap, StageError
from mdp_mmengine.scenes import Scenes


@dataclass(frozen=True)
class SegScenes:
    """Makes the training sample of an index.

    Attributes:
        scenes: The images and label maps, augmented.
    """

    scenes: Scenes

    def check(self) -> None:
        """Checks what can be checked cheaply: counts, and that there is anything to learn.

        Raises:
            StageError: No images, not one label map an image, or not one labelled pixel.
        """
        images, label_maps = self.scenes.images, self.scenes.label_maps
        if not len(images):
            raise StageError("the segmenter was given no training images", hint="look at the dataset of the recipe (data)")
        if len(images) != len(label_maps):
            raise StageError(f"{len(images)} images, but {len(label_maps)} label maps")
        if not any(_has_objects(labels) for labels in label_maps):
            raise StageError(
                f"none of the {len(label_maps)} label maps has a pixel of any cluster: there is nothing to learn",
                hint="the stage that made them (usually the refiner) kept no mask; lower its threshold, "
                "or look at the masks of the stages before it: detector, clusterer, prior",
            )

    def __call__(self, index: int) -> dict[str, Any]:
        """Returns ``inputs``, uint8 (3, size, size) RGB, and ``data_samples`` with int64 labels (1, size, size).

        Raises:
            StageError: The label map is of another size than the image, or holds a label above C.
            DataError: The image cannot be read.
        """
        pixels, labels = self.scenes.draw(index)
        sample = SegDataSample()
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels)[None])
        return {"inputs": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), "data_samples": sample}


def _has_objects(labels: LabelMap) -> bool:
    return bool(((labels.values > 0) & (labels.values != labels.ignore)).any())
