"""Views: the picture of one mask that is embedded."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mdp_backbones.preprocess import fill_outside, resize
from mdp_core.api import Bitmap, Pixels
from mdp_kmeans.settings import EmbedConfig

Colour = NDArray[np.uint8]
"""A pixel, uint8 (3,)."""
Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; x1 and y1 are exclusive."""


def view_of(
    pixels: Pixels, mask: Bitmap, config: EmbedConfig, colour: Colour, stored: NDArray[np.float32] | None = None
) -> Pixels:
    """Makes the view of one mask.

    Args:
        pixels: uint8 (H, W, 3).
        mask: bool (H, W). An empty mask has the whole image as its box.
        config: Says which view, how large, how it becomes square.
        colour: What is outside the mask or the image has: the mean colour of the images that the network knows.
        stored: float32 (4,), the box that came with the mask; needed by ``box: stored``.

    Returns:
        uint8 (size, size, 3); as large as the box or the image for ``size: native``.
    """
    if config.view == "masked-image":
        return sized(fill_outside(pixels, mask, colour), config, colour)
    box = box_of(mask) if stored is None or config.box == "mask" else whole_pixels(stored, *mask.shape)
    x0, y0, x1, y1 = widened(box, config.margin, *mask.shape)
    crop = pixels[y0:y1, x0:x1]
    if config.view == "masked-crop":
        crop = fill_outside(crop, mask[y0:y1, x0:x1], colour)
    return sized(crop, config, colour)


def box_of(mask: Bitmap) -> Box:
    """Returns the tight box of bool (H, W); the whole image for an empty mask."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, width, height
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def whole_pixels(box: NDArray[np.float32], height: int, width: int) -> Box:
    """Returns all pixels of the image that x0, y0, x1, y1 touches, rounded outwards; the whole image if that is none."""
    x0, y0 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    x1, y1 = min(width, math.ceil(box[2])), min(height, math.ceil(box[3]))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else (0, 0, width, height)


def widened(box: Box, margin: float, height: int, width: int) -> Box:
    """Widens a box on each side by ``margin`` of its own side, within the image."""
    x0, y0, x1, y1 = box
    dx, dy = round(margin * (x1 - x0)), round(margin * (y1 - y0))
    return max(0, x0 - dx), max(0, y0 - dy), min(width, x1 + dx), min(height, y1 + dy)


def sized(pixels: Pixels, config: EmbedConfig, colour: Colour) -> Pixels:
    """Brings uint8 (H, W, 3) to the size that the network shall see: a square, or its own size up to ``largest``."""
    if config.size != "native":
        return to_square(pixels, config.size, config.shape, colour)
    height, width = pixels.shape[:2]
    scale = min(1.0, (config.largest or max(height, width)) / max(height, width))
    return resize(pixels, max(1, round(height * scale)), max(1, round(width * scale)))


def to_square(pixels: Pixels, size: int, shape: Literal["pad", "squash"], colour: Colour) -> Pixels:
    """Resizes uint8 (H, W, 3) to (size, size, 3), stretched or padded with ``colour`` on both sides."""
    if shape == "squash":
        return resize(pixels, size, size)
    height, width = pixels.shape[:2]
    scale = size / max(height, width)
    inner = resize(pixels, max(1, round(height * scale)), max(1, round(width * scale)))
    top, left = (size - inner.shape[0]) // 2, (size - inner.shape[1]) // 2
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = colour
    canvas[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return canvas
