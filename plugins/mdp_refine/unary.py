"""Unary energies of a CRF, for the labels that occur in an image alone: from probabilities, or from labels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mdp_core.api import LabelMap

TINY = np.float32(2.0**-24)
"""The smallest positive float16: what a stored probability of 0 may have been."""


@dataclass(frozen=True, eq=False)
class Unary:
    """What is known of each pixel by itself.

    Attributes:
        labels: int64 (L,), the labels that take part, ascending.
        energies: float32 (H·W, L), -log of the probability of each.
    """

    labels: NDArray[np.int64]
    energies: NDArray[np.float32]


def from_probabilities(
    probabilities: NDArray[np.float16], size: tuple[int, int], *, least: float = 1e-5, floor: float = 0.0
) -> Unary:
    """Brings probabilities to the image's size: log, bilinear, softmax, which is the softmax of the interpolated logits.

    One label is held at a time, so that memory grows with the labels that take part, not with all.

    Args:
        probabilities: float16 (C + 1, h, w).
        size: (H, W) of the image.
        least: Smaller probabilities are raised to this.
        floor: Labels that are the most probable nowhere take part where their probability reaches this somewhere.

    Returns:
        The unaries; all labels with floor 0.
    """
    height, width = size
    best = np.full(size, -np.inf, np.float32)
    winner = np.zeros(size, np.uint16)
    for label in range(len(probabilities)):
        score = _interpolated_log(probabilities[label], height, width)
        np.copyto(winner, label, where=score > best)
        np.maximum(best, score, out=best)
    total = np.zeros(size, np.float32)
    for channel in probabilities:
        total += np.exp(_interpolated_log(channel, height, width) - best)
    normaliser = best + np.log(total)
    wins = np.bincount(winner.ravel(), minlength=len(probabilities)) > 0
    kept, energies = [], []
    for label in range(len(probabilities)):
        energy = normaliser - _interpolated_log(probabilities[label], height, width)
        if wins[label] or energy.min() <= (np.inf if floor <= 0 else -np.log(floor)):
            kept.append(label)
            energies.append(np.minimum(energy, -np.log(np.float32(least))).ravel())
    return Unary(np.array(kept, np.int64), np.stack(energies, axis=1))


def from_labels(label_map: LabelMap, certainty: float) -> Unary:
    """Gives each pixel's label the probability ``certainty``; the other labels of the image share the rest.

    A pixel to be ignored says nothing: all labels are as probable. An image of ignored pixels alone has no labels.
    """
    values = label_map.values.ravel()
    labels = np.unique(values)
    labels = labels[labels != label_map.ignore]
    others = (1 - certainty) / max(len(labels) - 1, 1)
    energies = np.full((len(values), len(labels)), -np.log(others), np.float32)
    for column, label in enumerate(labels):
        energies[values == label, column] = -np.log(certainty)
    energies[values == label_map.ignore] = np.log(max(len(labels), 1))
    return Unary(labels.astype(np.int64), energies)


def shrunk(label_map: LabelMap, size: tuple[int, int]) -> LabelMap:
    """Returns a label map at (height, width), by the nearest pixel; the same one where the size is its own."""
    if label_map.size == size:
        return label_map
    return LabelMap(cv2.resize(label_map.values, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT))


def _interpolated_log(channel: NDArray[np.float16], height: int, width: int) -> NDArray[np.float32]:
    """Returns log probabilities at (height, width), bilinear between the centres of the pixels, constant beyond the outermost."""
    logs = np.log(np.maximum(channel.astype(np.float32), TINY))
    return cv2.resize(logs, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width)
