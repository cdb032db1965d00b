"""Confusion counts of a split: how many pixels of each true class each predicted label covers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdp_core.data.label_map import LabelMap, Labels
from mdp_core.errors import DataError

Counts = NDArray[np.int64]


class Confusion:
    """Counts pixels of (predicted label, true class), image after image; the memory does not grow with the split.

    Pixels that the truth ignores are left out. Pixels for which the *prediction* says ignore are no way out of being wrong: they
    are counted in ``unpredicted``, belong to no label, match no class, and so lower the IoU and the accuracy of their true class.

    Args:
        clusters: Number of clusters C; predictions hold 0 (background), 1..C, or ignore.
        classes: Number of true classes K with background; the truth holds 0..K-1, or ignore.

    Attributes:
        counts: int64 (C+1, K), pixels of predicted label (row) and true class (column).
        unpredicted: int64 (K,), pixels of each true class without a prediction.
        images: Number of images counted.
        without_truth: Number of images that have no ground truth; nothing of them is counted.
    """

    def __init__(self, clusters: int, classes: int) -> None:
        if clusters < 0 or classes < 1:
            raise ValueError(f"{clusters} clusters and {classes} classes cannot be compared")
        self.counts: Counts = np.zeros((clusters + 1, classes), np.int64)
        self.unpredicted: Counts = np.zeros(classes, np.int64)
        self.images = 0
        self.without_truth = 0

    @property
    def clusters(self) -> int:
        """Number of clusters C, background not counted."""
        return int(self.counts.shape[0]) - 1

    @property
    def classes(self) -> int:
        """Number of true classes K, background counted."""
        return int(self.counts.shape[1])

    @property
    def class_pixels(self) -> Counts:
        """Pixels of each true class, int64 (K,), predicted or not."""
        return np.asarray(self.counts.sum(axis=0) + self.unpredicted, dtype=np.int64)

    def add(self, image_id: str, prediction: LabelMap, truth: LabelMap | None) -> None:
        """Counts one image.

        Args:
            image_id: Names the image in errors.
            prediction: The predicted labels, 0..C or ignore.
            truth: The true classes, 0..K-1 or ignore, of the same size; None: the image has no ground truth and is left out.

        Raises:
            DataError: The sizes differ, or a map holds a value out of its range. Nothing of the image is counted then.
        """
        if truth is None:
            self.without_truth += 1
            return
        if prediction.size != truth.size:
            raise DataError(
                f"{image_id}: the prediction is {_size(prediction)} px, the ground truth {_size(truth)} px",
                hint="the ground truth must have the size of its image; check that it belongs to this image and is not scaled",
            )
        label, true, pixels = _runs(prediction.values, truth.values)
        labelled, predicted = true != truth.ignore, label != prediction.ignore
        self._check(image_id, int(true[labelled].max(initial=0)), int(label[predicted].max(initial=0)), truth)
        both = labelled & predicted
        keys = label[both].astype(np.int64) * self.classes + true[both]
        self.counts += _sums(keys, pixels[both], self.counts.size).reshape(self.counts.shape)
        missed = labelled & ~predicted
        self.unpredicted += _sums(true[missed], pixels[missed], self.classes)
        self.images += 1

    def _check(self, image_id: str, true: int, label: int, truth: LabelMap) -> None:
        if true >= self.classes:
            raise DataError(
                f"{image_id}: the ground truth holds class {true}, but the dataset names classes 0..{self.classes - 1}",
                hint=f"correct the dataset's class names, or mark such pixels as ignore ({truth.ignore})",
            )
        if label > self.clusters:
            raise DataError(
                f"{image_id}: the prediction holds label {label}, but there are {self.clusters} clusters",
                hint="a stage predicted labels that it was not trained on; report this to the maker of its plugin",
            )

    def merge(self, other: Confusion) -> None:
        """Adds the counts of another part of the same split, for example of another process.

        Raises:
            ValueError: The numbers of clusters or classes differ.
        """
        if self.counts.shape != other.counts.shape:
            raise ValueError(f"counts of shape {self.counts.shape} and {other.counts.shape} are not of one split")
        self.counts += other.counts
        self.unpredicted += other.unpredicted
        self.images += other.images
        self.without_truth += other.without_truth


def _runs(label: Labels, true: Labels) -> tuple[Labels, Labels, Counts]:
    """Returns the pairs of values of two maps (H, W), run by run along the rows, and the pixels of each run.

    Maps of labels are made of long runs, so that little is left to count: several times as fast as counting pixels.
    """
    first, second = label.ravel(), true.ravel()
    ends = np.flatnonzero((first[1:] != first[:-1]) | (second[1:] != second[:-1]))
    ends = np.append(ends, first.size - 1)[: first.size]
    return first[ends], second[ends], np.diff(ends, prepend=-1)


def _sums(keys: NDArray[Any], pixels: Counts, size: int) -> Counts:
    """Returns the pixels of each key, int64 (size,); sums of whole numbers below 2^53 are exact in floating point."""
    return np.bincount(keys, weights=pixels, minlength=size).astype(np.int64)


def _size(label_map: LabelMap) -> str:
    height, width = label_map.size
    return f"{width}×{height}"
