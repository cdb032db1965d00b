"""Random flip, rotation and scale, then a square: what a training image and its label map go through together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mdp_core.api import Pixels


@dataclass(frozen=True)
class Augmentation:
    """Settings of ``augment``; defaults are the authors'.

    Attributes:
        size: Side of the resulting square in pixels.
        scale: Range of the scale factor.
        rotate: Range of the angle in degrees, counter-clockwise.
        flip: Probability of a horizontal flip.
    """

    size: int = 512
    scale: tuple[float, float] = (0.75, 1.25)
    rotate: tuple[float, float] = (-5.0, 5.0)
    flip: float = 0.5


def hflip(values: NDArray[Any]) -> NDArray[Any]:
    """Returns (H, W) or (H, W, 3) mirrored left to right."""
    return np.ascontiguousarray(values[:, ::-1])


def rotate_scale(image: Pixels, labels: NDArray[Any], angle: float, scale: float, border: int) -> tuple[Pixels, NDArray[Any]]:
    """Rotates and scales about the centre, keeping the size; what comes in from outside is black and labelled ``border``.

    Args:
        image: uint8 (H, W, 3), interpolated bicubically.
        labels: uint8 or uint16 (H, W), nearest neighbour.
        angle: Degrees, counter-clockwise.
        scale: Factor; above 1 objects grow.
        border: Label of pixels from outside.
    """
    height, width = labels.shape
    # Centres of pixels are at whole coordinates in OpenCV, so the centre of the image is at (size - 1) / 2.
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, scale)
    moved = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    moved_labels = cv2.warpAffine(
        labels, matrix, (width, height), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=border
    )
    return np.asarray(moved, np.uint8), moved_labels


def resize_image(image: Pixels, height: int, width: int) -> Pixels:
    """Resizes uint8 (H, W, 3) bicubically."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def resize_labels(labels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Resizes uint8 or uint16 (H, W) to the nearest neighbour, aligned with ``resize_image`` (pixel centres)."""
    if labels.shape == (height, width):
        return labels
    return cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def augment(
    image: Pixels, labels: NDArray[Any], settings: Augmentation, border: int, rng: np.random.Generator
) -> tuple[Pixels, NDArray[Any]]:
    """Flips, rotates, scales and squashes an image and its label map at random.

    Args:
        image: uint8 (H, W, 3).
        labels: uint8 or uint16 (H, W).
        settings: The ranges.
        border: Label of pixels that come in from outside the image.
        rng: The only source of chance; three numbers are drawn from it, whatever the settings.

    Returns:
        uint8 (size, size, 3) and labels (size, size) of the type given.
    """
    flip, angle, scale = rng.random(), rng.uniform(*settings.rotate), rng.uniform(*settings.scale)
    if flip < settings.flip:
        image, labels = hflip(image), hflip(labels)
    if (angle, scale) != (0.0, 1.0):
        image, labels = rotate_scale(image, labels, angle, scale, border)
    return resize_image(image, settings.size, settings.size), resize_labels(labels, settings.size, settings.size)
