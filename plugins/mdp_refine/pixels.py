"""Which pixels a detection labels: its filled box, or what GrabCut finds in it (MaskDistill, Table S1)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from mdp_core.api import Bitmap, Instances, Pixels

ITERATIONS = 5
SEED = 0
"""OpenCV's random numbers start here for each box, so that a result depends on nothing that was done before."""


def boxed(instances: Instances) -> Instances:
    """Returns the same detections with their filled boxes as masks."""
    return _with_masks(instances, [fill(corners(box, instances.size), instances.size) for box in instances.boxes])


def grabcut(instances: Instances, pixels: Pixels) -> Instances:
    """Returns the same detections with what GrabCut finds in their boxes as masks; nothing found is an empty mask.

    Args:
        instances: The detections.
        pixels: uint8 (H, W, 3) RGB, the whole image.
    """
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    return _with_masks(instances, [foreground(bgr, corners(box, instances.size)) for box in instances.boxes])


def corners(box: NDArray[np.float32], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Returns x0, y0, x1, y1 of the pixels whose centres lie in a box, ends exclusive, cut at the image; x1 ≥ x0 and y1 ≥ y0.

    Args:
        box: float32 (4,), x0 y0 x1 y1 in pixels.
        size: (height, width).
    """
    height, width = size
    finite = np.nan_to_num(box, nan=0.0, posinf=2.0**30, neginf=-(2.0**30))
    x0, y0, x1, y1 = np.ceil(np.asarray(finite, np.float64) - 0.5).astype(np.int64)
    x0, x1 = np.clip([x0, x1], 0, width)
    y0, y1 = np.clip([y0, y1], 0, height)
    return int(x0), int(y0), int(max(x0, x1)), int(max(y0, y1))


def fill(box: tuple[int, int, int, int], size: tuple[int, int]) -> Bitmap:
    """Returns the filled box as bool (H, W)."""
    x0, y0, x1, y1 = box
    mask = np.zeros(size, np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def foreground(bgr: Pixels, box: tuple[int, int, int, int]) -> Bitmap:
    """Returns what GrabCut (Rother et al., 2004) calls foreground: five iterations from the box as rectangle.

    A box without pixels gives an empty mask. A box without a pixel outside it leaves GrabCut no background to learn from: the mask
    is the filled box.
    """
    size, (x0, y0, x1, y1) = bgr.shape[:2], box
    filled = fill(box, (size[0], size[1]))
    if not filled.any() or filled.all():
        return filled
    labels = np.zeros(size, np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(SEED)
    cv2.grabCut(bgr, labels, (x0, y0, x1 - x0, y1 - y0), *models, ITERATIONS, cv2.GC_INIT_WITH_RECT)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def _with_masks(instances: Instances, masks: list[Bitmap]) -> Instances:
    stacked = np.stack(masks) if masks else np.zeros((0, *instances.size), np.bool_)
    return Instances.from_masks(stacked, scores=instances.scores, labels=instances.labels, boxes=instances.boxes)
