"""From a mask of patches to a mask of pixels, at the image's own size."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mdp_core.api import Bitmap

Size = tuple[int, int]
"""(height, width) in pixels."""
Upsample = Literal["nearest", "bicubic-any"]


def to_pixels(patches: Bitmap, patch: int, resized: Size, size: Size, rule: Upsample = "nearest") -> Bitmap:
    """Brings a mask of patches to the image's own size.

    Args:
        patches: bool (rows, columns).
        patch: Side of a patch in pixels of the resized image.
        resized: Of the resized image, without padding.
        size: Of the image itself.
        rule: ``nearest``: nearest neighbours, twice, in one step. ``bicubic-any``: each patch becomes patch × patch pixels, the
            padding is cropped, Pillow's bicubic filter resizes 0 and 255, and whatever is not 0 then counts: all that the
            kernel reaches, so that masks grow by about a pixel on each side.

    Returns:
        bool ``size``.
    """
    return _nearest(patches, patch, resized, size) if rule == "nearest" else _bicubic_any(patches, patch, resized, size)


def _nearest(patches: Bitmap, patch: int, resized: Size, size: Size) -> Bitmap:
    def nearest(target: int, source: int) -> NDArray[np.int64]:
        centres = (2 * np.arange(target, dtype=np.int64) + 1) * source // (2 * target)
        return centres // patch

    return patches[np.ix_(nearest(size[0], resized[0]), nearest(size[1], resized[1]))]


def _bicubic_any(patches: Bitmap, patch: int, resized: Size, size: Size) -> Bitmap:
    cells = [np.arange(side) // patch for side in resized]
    bitmap = Image.fromarray(patches[np.ix_(*cells)].astype(np.uint8) * 255)
    return np.asarray(bitmap.resize(size[::-1], Image.Resampling.BICUBIC)) != 0
