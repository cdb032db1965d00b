"""What is kept of a mask's outline: all of it, all but its holes, or polygons drawn round it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mdp_core.api import Bitmap, Instances, to_polygons

Outline = Literal["exact", "filled", "polygon"]
TOLERANCE = 2.0
"""How far a simplified outline may lie from the outline, in pixels."""


def outlined(mask: Bitmap, outline: Outline) -> Bitmap:
    """Returns bool (H, W) as it is (``exact``), with its holes filled (``filled``), or gone through polygons (``polygon``)."""
    if outline == "filled":
        return ndimage.binary_fill_holes(mask)
    return through_polygons(mask) if outline == "polygon" else mask


def instances_of(masks: Bitmap, scores: NDArray[np.float32], outline: Outline) -> Instances:
    """Returns bool (n, H, W) with ``outline``, each with the box of its pixels before; those that nothing is left of are dropped."""
    drawn = np.stack([outlined(mask, outline) for mask in masks])
    there = np.flatnonzero(drawn.any(axis=(1, 2)))
    boxes = None if outline == "exact" else Instances.from_masks(masks[there]).boxes
    return Instances.from_masks(drawn[there], scores=scores[there], boxes=boxes)


def through_polygons(mask: Bitmap, tolerance: float = TOLERANCE) -> Bitmap:
    """Returns the union of a mask's polygons as COCO's tools rasterise them.

    Holes are filled, corners cut, and outlines move by up to the tolerance and half a pixel to the left and up, since polygons
    count from the centres of pixels and rasterising from their corners.

    Args:
        mask: bool (H, W).
        tolerance: In pixels.

    Returns:
        bool (H, W); empty where nothing is left.
    """
    polygons = to_polygons(mask, tolerance)
    annotation = {"segmentation": polygons, "bbox": [0, 0, 0, 0], "category_id": 0}
    return Instances.from_coco([annotation], *mask.shape, first_category=0).mask(0)
