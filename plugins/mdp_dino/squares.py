"""What priors on squares share: images squashed to a square, masks of patches brought to the borders of the image by a dense CRF.

Wang, Girdhar, Yu and Misra, "Cut and Learn for Unsupervised Object Detection and Instance Segmentation" (CVPR 2023; CutLER), whose
way others have kept.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mdp_backbones.preprocess import pad_to_multiple
from mdp_core.api import Bitmap, ImageRecord, Instances, Pixels
from mdp_crf.mean_field import bilateral, gaussian, mean_field
from mdp_dino.cells import enlarged
from mdp_dino.patches import Grouping, Patches, PatchPrior
from mdp_dino.pixels import Size
from mdp_dino.settings.square import SquareConfig

ConfigT = TypeVar("ConfigT", bound=SquareConfig)
RECOGNISED = 0.5
"""A mask must overlap what the CRF made of it by at least this (IoU)."""


class SquarePrior(PatchPrior[ConfigT], ABC):
    """Sees each image as a square, and returns masks of pixels."""

    def sharpened_grouping(self, masks: Sequence[Bitmap], scores: Sequence[float], patches: Patches) -> Grouping:
        """Brings masks of patches to pixels, with the borders of the image if ``crf``; those that change beyond recognition are dropped.

        Args:
            masks: bool (rows, columns) each.
            scores: One each.
            patches: The image.
        """
        size = patches.pixels.shape[0], patches.pixels.shape[1]
        coarse = [enlarged(mask, patches.patch, size) for mask in masks]
        fine = sharpened(coarse, patches.pixels) if self.config.crf else [ndimage.binary_fill_holes(mask) for mask in coarse]
        kept = [index for index in range(len(masks)) if fine[index].any() and overlap(fine[index], coarse[index]) >= RECOGNISED]
        if not kept:
            return Grouping.nothing(size, 1)
        chosen: NDArray[np.float32] = np.array([scores[i] for i in kept], np.float32)
        return Grouping(np.stack([fine[i] for i in kept]), chosen, 1)

    def input_size(self, size: Size) -> Size:
        """Returns (height, width) at which the network sees an image of ``size``: a square, whatever its shape, unless told otherwise."""
        side = self.config.square
        return super().input_size(size) if side is None else (side, side)

    def _picture(self, pixels: Pixels, size: Size) -> Pixels:
        """Resizes with Lanczos' filter, as published, where the other priors take a bilinear one."""
        resized = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.LANCZOS))
        return pad_to_multiple(resized, self.reader.patch) if self.config.padding == "edge" else resized

    def instances(self, grouping: Grouping, record: ImageRecord) -> Instances:
        """Returns the masks at the image's size: Pillow's bicubic filter, above one half."""
        size = record.height, record.width
        height, width = self.input_size(size)
        masks = [resized(mask[:height, :width], size) for mask in grouping.masks]
        there = [index for index, mask in enumerate(masks) if mask.any()]
        stacked = np.stack([masks[i] for i in there]) if there else np.zeros((0, *size), np.bool_)
        return Instances.from_masks(stacked, scores=grouping.scores[there])


def sharpened(masks: Sequence[Bitmap], pixels: Pixels) -> list[Bitmap]:
    """Moves the borders of masks to those of the image, by a dense CRF with the published constants, and fills holes.

    Args:
        masks: bool (height, width) each.
        pixels: uint8 (height, width, 3).
    """
    if not masks:
        return []
    height, width = pixels.shape[:2]
    kernels = [gaussian(height, width, weight=7, sxy=3), bilateral(pixels, weight=10, sxy=50, srgb=5)]
    sure, unsure = np.float32(np.log1p(np.exp(-1))), np.float32(np.log1p(np.exp(1)))  # -log softmax of 1 and 0
    fine = []
    for mask in masks:
        energies = np.where(np.stack([~mask.ravel(), mask.ravel()], axis=1), sure, unsure)
        chosen = mean_field(energies, kernels, iterations=10).argmax(axis=1).reshape(height, width)
        fine.append(ndimage.binary_fill_holes(chosen))
    return fine


def resized(mask: Bitmap, size: Size) -> Bitmap:
    """Brings bool (height, width) to another size, by Pillow's bicubic filter, above one half."""
    bitmap = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(bitmap.resize(size[::-1], Image.Resampling.BICUBIC)) > 127


def overlap(one: Bitmap, other: Bitmap) -> float:
    """Returns the intersection over the union of two masks; 0 where both are empty."""
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 0.0
