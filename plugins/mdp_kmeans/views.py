"""Views: the picture of one mask that is embedded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mdp_backbones.preprocess import fill_outside, resize
from mdp_core.api import Bitmap, Pixels
from mdp_kmeans.settings import EmbedConfig

Colour = NDArray[np.uint8]
"""A pixel, uint8 (3,)."""
Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; x1 and y1 are exclusive."""


def view_of(pixels: Pixels, mask: Bitmap, config: EmbedConfig, colour: Colour) -> Pixels:
    """Makes the view of one mask.

    Args:
        pixels: uint8 (H, W, 3).
        mask: bool (H, W). An empty mask has the whole image as its box.
        config: Says which view, how large, how it becomes square.
        colour: What is outside the mask or the image has: the mean colour of the images that the network knows.

    Returns:
        uint8 (size, size, 3).
    """
    if config.view == "masked-image":
        return to_square(fill_outside(pixels, mask, colour), config, colour)
    x0, y0, x1, y1 = box_of(mask, config.margin)
    crop = pixels[y0:y1, x0:x1]
    if config.view == "masked-crop":
        crop = fill_outside(crop, mask[y0:y1, x0:x1], colour)
    return to_square(crop, config, colour)


def box_of(mask: Bitmap, margin: float = 0.0) -> Box:
    """Returns the tight box of bool (H, W), widened on each side by ``margin`` of its own side, within the image."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, width, height
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    dx, dy = round(margin * (x1 - x0)), round(margin * (y1 - y0))
    return max(0, x0 - dx), max(0, y0 - dy), min(width, x1 + dx), min(height, y1 + dy)


def to_square(pixels: Pixels, config: EmbedConfig, colour: Colour) -> Pixels:
    """Resizes uint8 (H, W, 3) to (size, size, 3), stretched or padded with ``colour`` on both sides."""
    size = config.size
    if config.shape == "squash":
        return resize(pixels, size, size)
    height, width = pixels.shape[:2]
    scale = size / max(height, width)
    inner = resize(pixels, max(1, round(height * scale)), max(1, round(width * scale)))
    top, left = (size - inner.shape[0]) // 2, (size - inner.shape[1]) // 2
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = colour
    canvas[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return canvas
