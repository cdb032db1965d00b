"""The texture families of the shapes and of the backgrounds: grey patterns in [0, 1] that blend two colours.

Coordinates are in periods of the pattern; ``pixel`` is the side of a pixel in the same unit, by which edges are smoothed.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Texture = Callable[[Plane, Plane, float, Generator], Plane]


def rings(x: Plane, y: Plane, pixel: float, _rng: Generator) -> Plane:
    """Rings around the origin, one a period."""
    return _soft(np.cos(np.float32(2 * np.pi) * np.hypot(x, y)), 2 * np.pi * pixel)


def stripes(x: Plane, _y: Plane, pixel: float, _rng: Generator) -> Plane:
    """Straight stripes along y, one a period."""
    return _soft(np.cos(np.float32(2 * np.pi) * x), 2 * np.pi * pixel)


def checks(x: Plane, y: Plane, pixel: float, _rng: Generator) -> Plane:
    """A chessboard; two squares a period."""
    return _soft(np.sin(np.float32(2 * np.pi) * x) * np.sin(np.float32(2 * np.pi) * y), 2 * np.pi * pixel)


def dots(x: Plane, y: Plane, pixel: float, _rng: Generator) -> Plane:
    """Round dots on a square lattice, one a period, of radius 0.31."""
    return _soft(np.float32(0.31) - np.hypot(x - np.rint(x), y - np.rint(y)), pixel)


def grain(x: Plane, _y: Plane, pixel: float, rng: Generator) -> Plane:
    """Irregular grains, about a third of a period wide, anchored to the pixels and not to the coordinates."""
    noise = smooth_noise(x.shape[0], x.shape[1], max(1.0 / (3.0 * pixel), 1.0), rng)
    return _soft(noise - np.float32(0.5), 0.35)


def smooth_noise(height: int, width: int, cell: float, rng: Generator) -> Plane:
    """Returns noise in about [0, 1] with features ``cell`` pixels wide, float32 (height, width)."""
    rows, columns = (max(int(np.ceil(side / cell)) + 1, 2) for side in (height, width))
    coarse = rng.random((rows, columns), dtype=np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _soft(wave: Plane, slope: float) -> Plane:
    """A step at 0, one pixel wide where ``wave`` rises by ``slope`` a pixel."""
    return np.clip(wave / np.float32(slope) + np.float32(0.5), 0.0, 1.0)
