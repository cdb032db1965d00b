"""The single-object setting of the paper (A.4): one detection an image against one true object.

"Multi" compares all detections with all true objects. "Single" compares, in each image, the detection with the highest score (among equals
the first) with the one true object whose *box* has the largest IoU with its box (among equals the first; so an object is chosen even where
none overlaps). What the paper leaves open is settled as its authors' code does:

- All other true objects of the image are removed, crowd regions as well.
- An image without a detection is no part of the set: its objects are not missed. ``single_strict`` is the other reading: such an image
  counts its largest object (by mask area, among equals the first) as missed.

The authors' code stops at a detection in an image without a true object. Here it is a false positive as in the multi-object setting; the
crowd regions of such an image stay.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def detection_of(scores: NDArray[np.float32]) -> int | None:
    """Returns the detection that represents the image: the first of those with the highest score; None where there is none."""
    return int(np.argmax(scores)) if len(scores) else None


def object_of(box_overlaps: NDArray[np.float64]) -> int | None:
    """Returns the true object that the detection is compared with; None where there is no object.

    Args:
        box_overlaps: float64 (m,), IoU of the detection's box with the box of each true object, crowd regions left out.
    """
    return int(np.argmax(box_overlaps)) if len(box_overlaps) else None


def missed_object_of(areas: NDArray[np.int64]) -> int | None:
    """Returns the object that an image without a detection misses in ``single_strict``; areas: int64 (m,), in pixels."""
    return int(np.argmax(areas)) if len(areas) else None
