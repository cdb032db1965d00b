"""How masks that overlap become one label map."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mdp_core.api import Bitmap, Instances, LabelMap

_Rejects = Callable[[Bitmap, Bitmap], bool]
"""(pixels painted so far, the next mask) → whether the mask is left out."""


def paint(instances: Instances, rule: str) -> LabelMap:
    """Paints clustered instances as label + 1 over background 0.

    Args:
        instances: Every label is ≥ 0. Equal scores: the earlier instance counts as the more confident one.
        rule: ``confident-wins``, ``skip-overlapping`` or ``authors``, see the functions below.
    """
    if rule == "confident-wins":
        return LabelMap.paint(instances)
    return _in_order(instances, {"skip-overlapping": touches, "authors": top_rows_painted}[rule])


def touches(painted: Bitmap, mask: Bitmap) -> bool:
    """Whether a mask shares a pixel with what is painted: it is left out whole."""
    return bool((painted & mask).any())


def top_rows_painted(painted: Bitmap, mask: Bitmap) -> bool:
    """Whether the authors' code leaves a mask out.

    It looks at ``painted[mask]`` with a mask of integers. NumPy then takes row 0 for each pixel outside the mask and row 1 for each pixel
    inside, so that a mask is left out where the image's top row is painted (unless the mask covers the whole image) or the
    second row is (unless the mask is empty), wherever the mask itself lies. In an image of one row, where that index is an error, a mask
    is judged by row 0 alone.
    """
    top, second = painted[0].any(), painted[1:2].any()
    return bool((top and not mask.all()) or (second and mask.any()))


def _in_order(instances: Instances, rejects: _Rejects) -> LabelMap:
    """Paints from the most confident to the least; what is not rejected covers what was painted before."""
    top = int(instances.labels.max(initial=-1)) + 1
    values = np.zeros(instances.size, np.uint8 if top <= 254 else np.uint16)
    for index in np.argsort(-instances.scores, kind="stable"):
        mask = instances.mask(int(index))
        if not rejects(values > 0, mask):
            values[mask] = instances.labels[index] + 1
    return LabelMap(values)
