"""Polygons: outlines of masks, as many tools and the authors of MaskDistill store them. They are not exact; run lengths are."""

from __future__ import annotations

import numpy as np

from mdp_core.data.instances import Bitmap


def to_polygons(mask: Bitmap, tolerance: float = 2.0) -> list[list[float]]:
    """Returns the outlines of a mask: contours at 0.5, simplified, through the centres of pixels.

    The outline of a hole is a polygon of its own, as those of further parts are, so that whoever fills the polygons fills holes too.
    Parts of a few pixels may vanish.

    Args:
        mask: bool (H, W).
        tolerance: How far (pixels) a simplified outline may lie from the contour.

    Returns:
        One flat list x0, y0, x1, y1, … a polygon, of at least three points; coordinates are not negative.
    """
    from skimage.measure import approximate_polygon, find_contours  # a fifth of a second, which only this needs

    polygons = []
    for contour in find_contours(np.pad(mask.astype(np.float64), 1), 0.5):  # type: ignore[no-untyped-call]
        closed = approximate_polygon(contour - 1, tolerance)  # type: ignore[no-untyped-call]
        simple = closed[:-1]  # the last point is the first again
        if len(simple) >= 3:
            points = np.maximum(simple[:, ::-1], 0.0)
            polygons.append([float(value) for value in points.ravel()])
    return polygons
