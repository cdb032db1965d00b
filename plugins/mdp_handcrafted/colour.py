"""Colours as all saliency maps compare them: CIELAB, where distances are about as large as they look."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

NOTICEABLE = 2.3
"""A difference of colours in Lab that can just be seen (Mahy, Van Eycken, Oosterlinck, 1994). Less than that is no object."""


def to_lab(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns CIELAB (L in [0, 100]), float64 (H, W, 3), of uint8 RGB (H, W, 3)."""
    return cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).astype(np.float64)


def within(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Returns an image shrunk so that its longer side has at most ``side`` pixels; smaller ones stay as they are."""
    height, width = pixels.shape[:2]
    share = side / max(height, width)
    if share >= 1:
        return pixels
    size = max(1, round(width * share)), max(1, round(height * share))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
