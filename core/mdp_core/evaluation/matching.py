"""Which true class each predicted label stands for: one to one (Hungarian), many to one (majority), or known (a probe)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mdp_core.evaluation.confusion import Confusion, Counts

Rule = Literal["hungarian", "majority", "identity"]
Unit = Literal["pixels", "objects"]


@dataclass(frozen=True)
class Matching:
    """Which true class each predicted label stands for. Several labels may stand for one class.

    Attributes:
        class_of_label: Class 0..K-1 of each predicted label 0..C (0 = predicted background); None = it stands for no class.
        classes: Number of classes K, background counted.
        shared: What each label shares with its class, in ``unit``, in the counts that the matching was made from; 0 without a class.
        rule: ``hungarian`` = one to one, as much shared as possible; ``majority`` = each label by itself, many to one;
            ``identity`` = labels are classes, nothing was matched.
        unit: What was counted.
        split: The split that it was made on; None = the one that is being evaluated.
    """

    class_of_label: tuple[int | None, ...]
    classes: int
    shared: tuple[int, ...]
    rule: Rule = "hungarian"
    unit: Unit = "pixels"
    split: str | None = None

    def __post_init__(self) -> None:
        if len(self.shared) != len(self.class_of_label):
            raise ValueError(f"{len(self.class_of_label)} labels, but {len(self.shared)} numbers of what they share")
        if any(c is not None and not 0 <= c < self.classes for c in self.class_of_label):
            raise ValueError(f"a label stands for a class outside 0..{self.classes - 1}")

    @property
    def cluster_of_class(self) -> tuple[int | None, ...]:
        """One label a class: of those that stand for it the one that shares most with it (the first of equals); None = there is none."""
        chosen: list[int | None] = [None] * self.classes
        for label, true in enumerate(self.class_of_label):
            if true is not None:
                best = chosen[true]
                if best is None or self.shared[label] > self.shared[best]:
                    chosen[true] = label
        return tuple(chosen)

    @property
    def pixels(self) -> int:
        """What all labels together share with their classes, in ``unit``."""
        return sum(self.shared)

    def words(self, split: str) -> str:
        """Returns the matching in words, for example ``"hungarian, pixels, split val"``; ``split`` is the evaluated one."""
        return (
            "none, labels are classes" if self.rule == "identity" else f"{self.rule}, {self.unit}, split {self.split or split}"
        )

    def on(self, confusion: Confusion) -> Matching:
        """Returns the same matching with ``shared`` counted in the pixels of another split.

        Raises:
            ValueError: The numbers of labels or classes differ.
        """
        if (len(self.class_of_label), self.classes) != confusion.counts.shape:
            raise ValueError(
                f"a matching of {len(self.class_of_label)} labels and {self.classes} classes for counts of {confusion.counts.shape}"
            )
        return replace(self, shared=_shared(confusion.counts, self.class_of_label))


def match(confusion: Confusion) -> Matching:
    """Matches labels and classes one to one so that the pixels they share are as many as possible (paper §4.1, appendix A.3).

    Background is a label like any other, on both sides. With more labels than classes the rest stay unmatched, and the other way
    round. A class without a pixel in the truth takes no label, and neither does a pair that shares no pixel.

    Args:
        confusion: Counts of the split to match on.

    Returns:
        The best matching; among equals, always the same one.
    """
    class_of_label = hungarian(confusion.counts)
    return Matching(class_of_label, confusion.classes, _shared(confusion.counts, class_of_label))


def majority(confusion: Confusion) -> Matching:
    """Gives each label the class that most of its pixels have; several labels may share a class (over-clustering).

    This is the many-to-one rule of IIC. Background is a label and a class like any other. Of classes with equally many pixels the
    first one counts; a label without a labelled pixel stands for no class. (MaskContrast's code takes the class with the largest
    IoU instead, which keeps small labels out of large classes.)

    Args:
        confusion: Counts of the split to match on.
    """
    class_of_label = largest(confusion.counts)
    return Matching(class_of_label, confusion.classes, _shared(confusion.counts, class_of_label), rule="majority")


def identity(confusion: Confusion) -> Matching:
    """Takes labels for what they are: true classes, as a probe predicts them.

    Raises:
        ValueError: There are not as many labels as classes.
    """
    if confusion.clusters + 1 != confusion.classes:
        raise ValueError(f"{confusion.clusters + 1} labels cannot be {confusion.classes} classes")
    class_of_label = tuple(range(confusion.classes))
    return Matching(class_of_label, confusion.classes, _shared(confusion.counts, class_of_label), rule="identity")


def hungarian(counts: Counts) -> tuple[int | None, ...]:
    """Returns the column of each row, one to one, with the largest sum of counts; None = no column, or one that shares nothing."""
    from scipy.optimize import linear_sum_assignment  # a third of a second, which only a new evaluation needs

    chosen: list[int | None] = [None] * len(counts)
    for row, column in zip(*linear_sum_assignment(counts, maximize=True), strict=True):
        if counts[row, column]:  # the algorithm fills up with pairs that share nothing, absent classes among them
            chosen[int(row)] = int(column)
    return tuple(chosen)


def largest(counts: Counts) -> tuple[int | None, ...]:
    """Returns the column of each row with the largest count, the first of equals; None = the row is empty."""
    return tuple(int(np.argmax(row)) if row.any() else None for row in counts)


def _shared(counts: Counts, class_of_label: Sequence[int | None]) -> tuple[int, ...]:
    return tuple(0 if true is None else int(counts[label, true]) for label, true in enumerate(class_of_label))
