"""COCO's average precision (AP) and average recall (AR), with pycocotools' numbers, for splits that do not fit in memory.

pycocotools' ``COCOeval`` matches detections and true objects image by image and class by class: in the order of falling scores, each
detection takes the free object with the largest IoU, if that reaches the threshold. Two facts make this cheap:

- Below IoU 0.5, the lowest threshold, no pair can matter. What is kept of an image is its few pairs at or above it (``Pairs``), never a
  matrix of IoUs, and of each IoU only which of the ten thresholds it reaches: ten bits.
- Which object a detection likes best does not depend on what the others take. So all images go in step: in round r the r-th detection of
  each image and class takes its favourite among the free objects, for all thresholds at once (``match``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int32]
Bits = NDArray[np.uint16]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]

THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10, dtype=np.float64)
"""IoU thresholds; AP is the mean over them."""
RECALLS: Floats = np.linspace(0.0, 1.0, 101, dtype=np.float64)
"""Recalls at which the precision is read."""
MAX_DETECTIONS = 100
"""Detections that count in an image and class, the highest scores first."""

_ALL = np.uint16((1 << len(THRESHOLDS)) - 1)
_AT_50, _AT_75 = 0, 5


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of a detection and a true object whose IoU reaches 0.5.

    They are sorted by detection; those of one detection by preference: objects before crowd regions, then the larger IoU, then the later
    object (as pycocotools settles equal IoUs).

    Attributes:
        found: int32 (p,), index of the detection.
        truth: int32 (p,), index of the true object or crowd region.
        bits: uint16 (p,), bit t is set where the IoU reaches ``THRESHOLDS[t]``.
    """

    found: Integers
    truth: Integers
    bits: Bits

    @classmethod
    def of(cls, overlaps: Floats, crowd: Flags) -> Pairs:
        """Builds the pairs of one image.

        Args:
            overlaps: float64 (n, m), IoU of each detection with each true object; for a crowd region the share of the detection inside it.
            crowd: bool (m,), which of the true objects are crowd regions.
        """
        found, truth = np.nonzero(overlaps >= THRESHOLDS[0])
        iou = overlaps[found, truth]
        order = np.lexsort((-truth, -iou, crowd[truth], found))
        levels = np.searchsorted(THRESHOLDS, iou[order], side="right")
        return cls(found[order].astype(np.int32), truth[order].astype(np.int32), ((1 << levels) - 1).astype(np.uint16))

    def select(self, keep: Flags) -> Pairs:
        """Returns the pairs where ``keep``, bool (p,), is set."""
        return Pairs(self.found[keep], self.truth[keep], self.bits[keep])


@dataclass(frozen=True, eq=False)
class Found:
    """The detections of a split, sorted by image; those of one image by falling score (equal scores: in their maker's order).

    Attributes:
        images: int32 (n,), position of the image among the sorted ids: equal scores in different images count in this order.
        scores: float32 (n,), finite.
        classes: int32 (n,), class of each detection; -1 = takes no part.
    """

    images: Integers
    scores: NDArray[np.float32]
    classes: Integers

    def counted(self) -> Flags:
        """Returns which detections count, bool (n,): those with a class, at most ``MAX_DETECTIONS`` an image and class."""
        part = np.flatnonzero(self.classes >= 0)
        counted = np.zeros(len(self.classes), np.bool_)
        counted[part[_rank(self.groups()[part]) < MAX_DETECTIONS]] = True
        return counted

    def groups(self) -> NDArray[np.int64]:
        """Returns one number for each pair of image and class, int64 (n,)."""
        return np.asarray(self.images * np.int64(max(int(self.classes.max(initial=0)) + 1, 1)) + self.classes, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Truth:
    """The true objects and crowd regions of a split.

    Attributes:
        classes: int32 (m,), class of each; -1 = takes no part.
        crowd: bool (m,), whether it is a crowd region: several detections may match it, and none of them is right or wrong.
    """

    classes: Integers
    crowd: Flags

    def objects(self, classes: int) -> NDArray[np.int64]:
        """Returns the number of true objects of each class, crowd regions not counted, int64 (classes,)."""
        return np.bincount(self.classes[(self.classes >= 0) & ~self.crowd], minlength=classes)


@dataclass(frozen=True, eq=False)
class Matches:
    """What the detections matched, at each threshold.

    Attributes:
        counted: bool (n,), the detections that count; the others have neither bit.
        right: uint16 (n,), bit t is set where the detection took a true object at ``THRESHOLDS[t]``.
        ignored: uint16 (n,), bit t is set where it lies in a crowd region instead.
        objects: int32 (n,), the true object that the detection took at IoU 0.5; -1 = none.
    """

    counted: Flags
    right: Bits
    ignored: Bits
    objects: Integers


@dataclass(frozen=True)
class AveragePrecision:
    """AP and AR, in [0, 1]; None where there is no true object.

    Attributes:
        ap: Mean over the thresholds, the recalls and the classes that have a true object.
        ap50: The same at IoU 0.5 alone; ap75: at 0.75.
        ar100: Largest recall with ``MAX_DETECTIONS`` an image, mean over thresholds and classes.
        class_ap: ``ap`` of each class; None where the truth has no object of the class.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ar100: float | None
    class_ap: tuple[float | None, ...]


def match(found: Found, truth: Truth, pairs: Pairs) -> Matches:
    """Matches detections with true objects of their image and class, at all thresholds (``COCOeval.evaluateImg``).

    Args:
        found: The detections of the split.
        truth: Its true objects.
        pairs: Their pairs; those of different classes, or of something that takes no part, are passed over.
    """
    counted = found.counted()
    pairs = pairs.select(counted[pairs.found] & (found.classes[pairs.found] == truth.classes[pairs.truth]))
    right, ignored = np.zeros(len(counted), np.uint16), np.zeros(len(counted), np.uint16)
    objects, taken = np.full(len(counted), -1, np.int32), np.zeros(len(truth.classes), np.uint16)
    candidates, first, counts = np.unique(pairs.found, return_index=True, return_counts=True)
    rounds = _rank(found.groups()[candidates])
    by_round = np.argsort(rounds, kind="stable")
    for turn in np.split(by_round, np.cumsum(np.bincount(rounds))[:-1]):  # one detection of each image and class
        for choice in range(int(counts[turn].max(initial=0))):  # its favourite, its second, …
            now = turn[counts[turn] > choice]
            pair, who = first[now] + choice, candidates[now]
            what, crowd = pairs.truth[pair], truth.crowd[pairs.truth[pair]]
            still_free = ~(right[who] | ignored[who]) & np.where(crowd, _ALL, ~taken[what])
            won = pairs.bits[pair] & still_free
            taken[what] |= won
            right[who] |= np.where(crowd, np.uint16(0), won)
            ignored[who] |= np.where(crowd, won, np.uint16(0))
            at_50 = ((won >> _AT_50) & 1).astype(np.bool_) & ~crowd
            objects[who[at_50]] = what[at_50]
    return Matches(counted, right, ignored, objects)


def average_precision(found: Found, truth: Truth, matches: Matches, classes: int) -> AveragePrecision:
    """Computes AP and AR from the matches (``COCOeval.accumulate``).

    Args:
        found: The detections.
        truth: The true objects.
        matches: What ``match`` returned for them.
        classes: Number of classes; the labels of both are below it.
    """
    counted = np.flatnonzero(matches.counted)
    order = counted[np.lexsort((-found.scores[counted], found.classes[counted]))]  # stable, like pycocotools' mergesort
    ends = np.cumsum(np.bincount(found.classes[order], minlength=classes))
    objects = truth.objects(classes)
    precisions = np.zeros((classes, len(THRESHOLDS), len(RECALLS)))
    recalls = np.zeros((classes, len(THRESHOLDS)))
    for index, members in enumerate(np.split(order, ends[:-1])):
        if objects[index]:
            for bit in range(len(THRESHOLDS)):
                right, ignored = (matches.right[members] >> bit) & 1, (matches.ignored[members] >> bit) & 1
                precisions[index, bit], recalls[index, bit] = _curve(right == 1, (right | ignored) == 0, int(objects[index]))
    present = objects > 0
    if not present.any():
        return AveragePrecision(None, None, None, None, (None,) * classes)
    return AveragePrecision(
        ap=float(precisions[present].mean()),
        ap50=float(precisions[present, _AT_50].mean()),
        ap75=float(precisions[present, _AT_75].mean()),
        ar100=float(recalls[present].mean()),
        class_ap=tuple(float(precisions[index].mean()) if present[index] else None for index in range(classes)),
    )


def _curve(right: Flags, wrong: Flags, objects: int) -> tuple[Floats, float]:
    """Returns the precision at each of ``RECALLS`` and the largest recall; detections in the order of falling scores."""
    precisions = np.zeros(len(RECALLS))
    if not len(right):
        return precisions, 0.0
    hits, misses = np.cumsum(right), np.cumsum(wrong)
    precision = hits / (misses + hits + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    recall = hits / objects
    at = np.searchsorted(recall, RECALLS, side="left")
    reached = at < len(recall)
    precisions[reached] = envelope[at[reached]]
    return precisions, float(recall[-1])


def _rank(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the position of each member in its group, in the given order, int64 (n,)."""
    order = np.argsort(groups, kind="stable")
    members = groups[order]
    starts = np.flatnonzero(np.diff(members, prepend=members[:1] - 1)) if len(members) else np.zeros(0, np.int64)
    rank = np.empty(len(groups), np.int64)
    rank[order] = np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))
    return rank
