"""Confusion counts of a split: how many pixels of each true class each predicted label covers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mdp_core.data.label_map import LabelMap
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
    """

    def __init__(self, clusters: int, classes: int) -> None:
        if clusters < 0 or classes < 1:
            raise ValueError(f"{clusters} clusters and {classes} classes cannot be compared")
        self.counts: Counts = np.zeros((clusters + 1, classes), np.int64)
        self.unpredicted: Counts = np.zeros(classes, np.int64)
        self.images = 0

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

    def add(self, image_id: str, prediction: LabelMap, truth: LabelMap) -> None:
        """Counts one image.

        Args:
            image_id: Names the image in errors.
            prediction: The predicted labels, 0..C or ignore.
            truth: The true classes, 0..K-1 or ignore, of the same size.

        Raises:
            DataError: The sizes differ, or a map holds a value out of its range. Nothing of the image is counted then.
        """
        if prediction.size != truth.size:
            raise DataError(
                f"{image_id}: the prediction is {_size(prediction)} px, the ground truth {_size(truth)} px",
                hint="the ground truth must have the size of its image; check that it belongs to this image and is not scaled",
            )
        labelled = truth.values != truth.ignore
        true, label = truth.values[labelled].astype(np.uint32), prediction.values[labelled].astype(np.uint32)
        predicted = label != prediction.ignore
        if int(true.max(initial=0)) >= self.classes:
            raise DataError(
                f"{image_id}: the ground truth holds class {int(true.max())}, but the dataset names classes 0..{self.classes - 1}",
                hint=f"correct the dataset's class names, or mark such pixels as ignore ({truth.ignore})",
            )
        if int(label[predicted].max(initial=0)) > self.clusters:
            raise DataError(
                f"{image_id}: the prediction holds label {int(label[predicted].max())}, but there are {self.clusters} clusters",
                hint="a stage predicted labels that it was not trained on; report this to the maker of its plugin",
            )
        pairs = np.bincount(label[predicted] * np.uint32(self.classes) + true[predicted], minlength=self.counts.size)
        self.counts += pairs.reshape(self.counts.shape)
        self.unpredicted += np.bincount(true[~predicted], minlength=self.classes)
        self.images += 1

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


def _size(label_map: LabelMap) -> str:
    height, width = label_map.size
    return f"{width}×{height}"
