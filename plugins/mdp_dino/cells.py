"""Between patches and the pixels that the network saw."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mdp_core.api import Bitmap
from mdp_dino.pixels import Size

Number = TypeVar("Number", bound=np.generic)


def enlarged(cells: NDArray[Number], patch: int, size: Size) -> NDArray[Number]:
    """Gives each pixel the value of its patch: (rows, columns) → (height, width), what lies in the padding is cropped."""
    return cells.repeat(patch, axis=0)[: size[0]].repeat(patch, axis=1)[:, : size[1]]


def coverage(mask: Bitmap, patch: int, grid: Size) -> NDArray[np.float64]:
    """Returns the share of each patch that a mask covers; pixels of the padding are in no mask.

    Args:
        mask: bool (height, width), at most ``grid`` times ``patch``.
        patch: Side of a patch in pixels.
        grid: (rows, columns).

    Returns:
        float64 (rows, columns) in [0, 1].
    """
    whole = np.zeros((grid[0] * patch, grid[1] * patch), np.bool_)
    whole[: mask.shape[0], : mask.shape[1]] = mask
    return whole.reshape(grid[0], patch, grid[1], patch).mean(axis=(1, 3))
