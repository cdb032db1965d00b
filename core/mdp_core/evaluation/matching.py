"""Hungarian matching of predicted clusters with true classes (paper §4.1, appendix A.3)."""

from __future__ import annotations

from dataclasses import dataclass

from mdp_core.evaluation.confusion import Confusion


@dataclass(frozen=True)
class Matching:
    """Which predicted label stands for which true class, one to one.

    Attributes:
        cluster_of_class: For each class, its predicted label (0 = predicted background, 1..C = clusters); None = no label.
        pixels: Pixels of the matched pairs, in the confusion counts that the matching was made from.
    """

    cluster_of_class: tuple[int | None, ...]
    pixels: int


def match(confusion: Confusion) -> Matching:
    """Matches labels and classes one to one so that the pixels they share are as many as possible.

    Background is a label like any other, on both sides. With more labels than classes the rest stay unmatched, and the other way
    round. A class without a pixel in the truth takes no label, and neither does a pair that shares no pixel.

    Args:
        confusion: Counts of the split to match on.

    Returns:
        The best matching; among equals, always the same one.
    """
    from scipy.optimize import linear_sum_assignment  # a third of a second, which only a new evaluation needs

    labels, classes = linear_sum_assignment(confusion.counts, maximize=True)
    cluster_of_class: list[int | None] = [None] * confusion.classes
    pixels = 0
    for label, true in zip(labels, classes, strict=True):
        shared = int(confusion.counts[label, true])
        if shared:  # the algorithm fills up with pairs that share nothing, absent classes among them
            cluster_of_class[int(true)] = int(label)
            pixels += shared
    return Matching(tuple(cluster_of_class), pixels)
