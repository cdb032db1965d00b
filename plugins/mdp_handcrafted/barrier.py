"""Saliency by minimum barrier distance: a pixel stands out if every way from the border to it crosses a large range of values.

Zhang, Sclaroff, Lin, Shen, Price, Měch: Minimum Barrier Salient Object Detection at 80 FPS, ICCV 2015 ("MB+"). Section 3.1 is the
distance and its raster scans, 3.2 the distance map of an image, 4 what is added to it.

A raster scan visits pixels row by row, and each looks at the one above and the one to the left. Those lie on the diagonal before
its own, so that all pixels of a diagonal can be done at once and the result is the same: a scan is H + W - 1 steps of numpy.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.morphology import reconstruction

from mdp_handcrafted.colour import NOTICEABLE, to_lab

Map = NDArray[np.float64]

SCANS = 3
"""Forward, backward, forward (K of Algorithm 1)."""
BORDER = 0.1
"""Width of the four border regions whose colours are compared with a pixel's, as a share of the longer side (30 of 300 pixels)."""
SMOOTHING = 0.02
"""α of the smoothing: its structuring element is α · √(mean of the map · pixels) wide; details smaller than that go."""
STEEPNESS = 10.0
"""b of the sigmoid that raises the contrast at the end."""


def barrier_map(pixels: NDArray[np.uint8]) -> Map:
    """Returns how much each pixel stands out, in [0, 1]; zeros where no barrier in the image can be noticed.

    Args:
        pixels: uint8 (H, W, 3) RGB.
    """
    lab = to_lab(pixels)
    barrier = barrier_distance(lab, SCANS).sum(axis=-1)
    if barrier.max() < NOTICEABLE:
        return np.zeros(barrier.shape)
    combined = scaled(barrier) + scaled(unlike_the_border(lab))
    smooth = smoothed(scaled(combined))
    centred = scaled(smooth * centre(*smooth.shape))
    return 1 / (1 + np.exp(-STEEPNESS * (centred - 0.5)))


def barrier_distance(values: Map, scans: int) -> Map:
    """Approximates the minimum barrier distance from the border (Algorithm 1, FastMBD), each channel by itself.

    The barrier of a path is its largest value less its smallest. What is returned is the barrier of some path, hence never
    less than the distance.

    Args:
        values: float64 (H, W, C).
        scans: How many raster scans, forward and backward in turn.

    Returns:
        float64 (H, W, C), zero on the border.
    """
    skew = _Skewed(values.shape[0], values.shape[1])
    seeds = np.zeros(values.shape[:2], np.bool_)
    seeds[[0, -1]] = seeds[:, [0, -1]] = True
    here = skew.put(values, 0.0)
    high, low = here.copy(), here.copy()
    distance = skew.put(np.where(seeds[..., None], np.zeros(values.shape), np.inf), np.inf)
    for scan in range(scans):
        steps = range(1, len(here)) if scan % 2 == 0 else range(len(here) - 2, -1, -1)
        toward = -1 if scan % 2 == 0 else 1
        for step in steps:
            _relax(here, high, low, distance, step, toward)
    return skew.take(distance)


def _relax(here: Map, high: Map, low: Map, distance: Map, step: int, toward: int) -> None:
    """Lets a diagonal take paths from the one beside it: by the neighbour in the column's direction, then by that in the row's."""
    value, best = here[step, 1:-1], distance[step, 1:-1]
    before = step + toward
    for shift in (toward, 0):  # rows lie at equal places on all diagonals: above is one row up, left the same row
        there = slice(1 + shift, here.shape[1] - 1 + shift)
        top, bottom = np.maximum(high[before, there], value), np.minimum(low[before, there], value)
        barrier = np.where(np.isinf(distance[before, there]), np.inf, top - bottom)
        better = barrier < best
        np.copyto(best, barrier, where=better)
        np.copyto(high[step, 1:-1], top, where=better)
        np.copyto(low[step, 1:-1], bottom, where=better)


class _Skewed:
    """Images whose diagonals lie in rows: pixel (y, x) is at [y + x, y + 1], with a margin on either side."""

    def __init__(self, height: int, width: int) -> None:
        y, x = np.mgrid[:height, :width]
        self.index = (y + x, y + 1)
        self.shape = (height + width - 1, height + 2)

    def put(self, image: Map, elsewhere: float) -> Map:
        skewed = np.full((*self.shape, image.shape[-1]), elsewhere)
        skewed[self.index] = image
        return skewed

    def take(self, skewed: Map) -> Map:
        return skewed[self.index]


def unlike_the_border(lab: Map) -> Map:
    """Returns how far a pixel's colour lies from those of the border's four sides, the least like it left out (§4, Eq. 9 and 10).

    Args:
        lab: float64 (H, W, 3).

    Returns:
        float64 (H, W): the sum over three sides of Mahalanobis distances, each side's scaled to a maximum of 1.
    """
    height, width = lab.shape[:2]
    wide = max(1, round(BORDER * max(height, width)))
    sides = [lab[:wide], lab[-wide:], lab[:, :wide], lab[:, -wide:]]
    maps = np.stack([_scaled_to_one(_mahalanobis(lab, side.reshape(-1, 3))) for side in sides])
    return maps.sum(axis=0) - maps.max(axis=0)


def _mahalanobis(lab: Map, side: Map) -> Map:
    apart = lab - side.mean(axis=0)
    covariance = np.cov(side.T, bias=True) + np.eye(3)  # one Lab unit is less than can be seen; a side may be of one colour
    return np.sqrt(np.einsum("yxi,ij,yxj->yx", apart, np.linalg.inv(covariance), apart))


def smoothed(values: Map) -> Map:
    """Removes bright, then dark details that are small for what stands out, and keeps its edges (reconstruction).

    Args:
        values: float64 (H, W) in [0, 1].
    """
    width = max(1, round(SMOOTHING * np.sqrt(values.mean() * values.size)))
    element = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    opened = reconstruction(cv2.erode(values, element), values, method="dilation")
    return np.asarray(reconstruction(cv2.dilate(opened, element), opened, method="erosion"))


def centre(height: int, width: int) -> Map:
    """Returns 1 in the middle of the image that falls with the distance from it to 0 at the farthest corner; (1, 1) is all middle."""
    y, x = np.mgrid[:height, :width] - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    away = np.hypot(y, x)
    return 1 - away / max(away.max(), 1.0)


def scaled(values: Map) -> Map:
    """Returns a map stretched to [0, 1]; zeros where it is flat."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros(values.shape)


def _scaled_to_one(values: Map) -> Map:
    return values / values.max() if values.max() > 0 else values
