"""Outlines of the five shapes as signed distances, so that drawing and ground truth come from one geometry.

Coordinates are the shape's own: the shape fits in the square [-1, 1]², y points down. Distances are in the same unit, negative
inside, and exact near straight edges, which is where they are used; beyond a corner they are at most the true distance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Outline = Callable[[Plane, Plane], Plane]


def disc(x: Plane, y: Plane) -> Plane:
    """A disc of radius 0.9."""
    return np.hypot(x, y) - np.float32(0.9)


def triangle(x: Plane, y: Plane) -> Plane:
    """An equilateral triangle with its corners on the unit circle, one of them up."""
    slope = np.abs(x) * np.float32(np.sqrt(3) / 2) - y * np.float32(0.5)
    return np.maximum(slope, y) - np.float32(0.5)


def rectangle(x: Plane, y: Plane) -> Plane:
    """A rectangle, 2 by 1.3."""
    return np.maximum(np.abs(x) - np.float32(1.0), np.abs(y) - np.float32(0.65))


def star(x: Plane, y: Plane) -> Plane:
    """A five-pointed star with its points on the unit circle, one of them up; the notches are at radius 0.5."""
    half = np.pi / 5
    angle = np.arctan2(x, -y)
    folded = np.abs(angle - np.float32(2 * half) * np.rint(angle / np.float32(2 * half)))
    radius = np.hypot(x, y)
    across, along = radius * np.sin(folded), radius * np.cos(folded)
    notch_x, notch_y = 0.5 * np.sin(half), 0.5 * np.cos(half)
    length = np.hypot(notch_x, 1.0 - notch_y)
    normal_x, normal_y = np.float32((1.0 - notch_y) / length), np.float32(notch_x / length)
    distance: Plane = across * normal_x + (along - np.float32(1.0)) * normal_y
    return distance


def cross(x: Plane, y: Plane) -> Plane:
    """A Greek cross, 2 by 2, with arms 0.7 wide."""
    ax, ay = np.abs(x), np.abs(y)
    distance: Plane = np.maximum(np.maximum(ax, ay) - np.float32(1.0), np.minimum(ax, ay) - np.float32(0.35))
    return distance
