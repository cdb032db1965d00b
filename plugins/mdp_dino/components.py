"""Connected parts of a mask of patches."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from mdp_core.api import Bitmap


def component_of(mask: Bitmap, source: tuple[int, int]) -> Bitmap:
    """Returns the 4-connected component of bool (rows, columns) that holds ``source``; nothing if the source is not set."""
    labels, _ = ndimage.label(mask)
    component: Bitmap = mask & (labels == labels[source])
    return component


def largest_components(mask: Bitmap, count: int) -> Bitmap:
    """Splits bool (rows, columns) into 4-connected parts and returns the ``count`` largest, or all there are: (n, rows, columns).

    Of equal sizes the one comes first whose first cell does, row by row.
    """
    labels, parts = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=parts + 1)[1:]
    largest = np.argsort(-sizes, kind="stable")[:count] + 1
    components: Bitmap = labels == largest[:, None, None]
    return components
