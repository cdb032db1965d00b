"""Images and instances as MMDetection's samples, for training (augmented) and for prediction."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from numpy.typing import NDArray

from mdp_core.api import Images, Instances, Pixels
from mdp_mmdet.settings import FitSettings

__all__ = ["TrainingSamples", "prediction_sample", "resized_size", "usable"]

_MIN_SIDE = 1.0


def resized_size(height: int, width: int, side: int, max_side: int) -> tuple[int, int]:
    """Returns (height, width) after the short side is brought to ``side``, the long one to ``max_side`` at most (≥ 1)."""
    scale = min(side / min(height, width), max_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def usable(instances: Instances) -> Instances:
    """Returns the instances that one can learn from: clustered, mask not empty, box at least 1 px wide and high."""
    sides = instances.boxes[:, 2:] - instances.boxes[:, :2]
    return instances.select((instances.areas() > 0) & (sides >= _MIN_SIDE).all(axis=1) & (instances.labels >= 0))


@dataclass(frozen=True)
class TrainingSamples:
    """Augmented training samples (paper A.1, MoCo): random short side, random horizontal flip.

    Attributes:
        images: Training images.
        instances: Their usable instances, aligned.
        indices: Images that have any; sample i is image ``indices[i]``.
        settings: Sides and the probability of a flip.
    """

    images: Images
    instances: Sequence[Instances]
    indices: Sequence[int]
    settings: FitSettings

    def load(self, sample: int) -> dict[str, Any]:
        """Returns ``inputs``, uint8 (3, h, w) RGB, and ``data_samples`` with boxes, labels and masks at that size.

        Draws from Python's random state. Instances that vanish at the drawn size are left out.
        """
        index = self.indices[sample]
        pixels, instances = self.images.read(index), self.instances[index]
        side = random.choice(self.settings.train_sides)
        flip = random.random() < self.settings.flip
        height, width = resized_size(pixels.shape[0], pixels.shape[1], side, self.settings.max_side)
        masks = np.stack([_resized(mask.view(np.uint8), height, width, cv2.INTER_NEAREST) for mask in instances.to_masks()])
        factor = np.array([width / pixels.shape[1], height / pixels.shape[0]] * 2, np.float32)
        boxes = (instances.boxes * factor).clip(0, [width, height] * 2)
        resized = _resized(pixels, height, width, cv2.INTER_LINEAR)
        if flip:
            resized, masks = resized[:, ::-1], masks[:, :, ::-1]
            boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
        keep = masks.any(axis=(1, 2)) & (boxes[:, 2:] - boxes[:, :2] >= _MIN_SIDE).all(axis=1)
        truth = InstanceData(
            bboxes=torch.from_numpy(boxes[keep].astype(np.float32)),
            labels=torch.from_numpy(instances.labels[keep].astype(np.int64)),
            masks=BitmapMasks(np.ascontiguousarray(masks[keep]), height, width),
        )
        data = _sample(resized, pixels.shape[:2])
        data["data_samples"].gt_instances = truth
        return data


def prediction_sample(pixels: Pixels, side: int, max_side: int) -> dict[str, Any]:
    """Returns one image as the model's input: ``inputs``, uint8 (3, h, w) RGB, and ``data_samples`` with the sizes."""
    height, width = resized_size(pixels.shape[0], pixels.shape[1], side, max_side)
    return _sample(_resized(pixels, height, width, cv2.INTER_LINEAR), pixels.shape[:2])


def _sample(resized: NDArray[np.uint8], original: tuple[int, ...]) -> dict[str, Any]:
    height, width = resized.shape[:2]
    sample = DetDataSample(
        metainfo={
            "ori_shape": tuple(original),
            "img_shape": (height, width),
            "scale_factor": (width / original[1], height / original[0]),
        }
    )
    inputs = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
    return {"inputs": inputs, "data_samples": sample}


def _resized(array: NDArray[np.uint8], height: int, width: int, interpolation: int) -> NDArray[np.uint8]:
    if array.shape[:2] == (height, width):
        return array
    return np.asarray(cv2.resize(array, (width, height), interpolation=interpolation), dtype=np.uint8)
