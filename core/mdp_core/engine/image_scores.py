"""Scores of single images, to rank them by: for looking at, not for tables, where counts are pooled over the split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mdp_core.data.instances import Instances
from mdp_core.data.label_map import LabelMap
from mdp_core.evaluation.localisation import mask_ious

Result = Instances | LabelMap


@dataclass(frozen=True)
class Rule:
    """How the images of a stage are ranked: in words, what the best and the worst are called, and the score of one image."""

    words: str
    best: str
    worst: str
    score: Callable[[Result, LabelMap | None, Instances | None], float | None]


def class_score(found: Result, truth: LabelMap | None, cluster_of_class: Sequence[int | None]) -> float | None:
    """Returns the mean IoU of one image over the classes that its truth has, in [0, 1]; None without labelled pixels.

    Args:
        found: Label map, or clustered masks.
        truth: Values are indices of ``cluster_of_class``, or ignore.
        cluster_of_class: Predicted label per class, matched over the whole split; None = none.
    """
    if truth is None:
        return None
    prediction = LabelMap.paint(found) if isinstance(found, Instances) else found
    classes = len(cluster_of_class)
    top = max(int(prediction.values.max(initial=0)), *(c or 0 for c in cluster_of_class))
    class_of_cluster = np.full(top + 1, classes, np.int64)
    for number, cluster in enumerate(cluster_of_class):
        if cluster is not None:
            class_of_cluster[cluster] = number
    valid = truth.values != truth.ignore
    true, mapped = truth.values[valid].astype(np.int64), class_of_cluster[prediction.values[valid]]
    if not true.size:
        return None
    mapped[prediction.values[valid] == prediction.ignore] = classes
    counts = np.bincount(true * (classes + 1) + mapped, minlength=classes * (classes + 1)).reshape(classes, classes + 1)
    shared, of_class = np.diagonal(counts), counts.sum(axis=1)
    union = of_class + counts.sum(axis=0)[:classes] - shared
    there = of_class > 0
    return float((shared[there] / union[there]).mean())


def object_score(found: Result, truth: Instances | None) -> float | None:
    """Returns the IoU of the most confident mask with the true object that it fits best; None where there is no true object."""
    if truth is None or not len(truth) or not isinstance(found, Instances):
        return None
    return float(mask_ious(found.select([int(found.scores.argmax())]), truth).max()) if len(found) else 0.0


def foreground_score(found: Result, truth: LabelMap | None) -> float | None:
    """Returns the IoU of all that was found with all that is not background in the truth; None where both are empty."""
    if truth is None:
        return None
    if isinstance(found, Instances):
        inside = found.to_masks().any(axis=0) if len(found) else np.zeros(found.size, np.bool_)
    else:
        inside = (found.values != 0) & (found.values != found.ignore)
    valid = truth.values != truth.ignore
    true = (truth.values != 0) & valid
    union = int(np.count_nonzero((inside & valid) | true))
    return np.count_nonzero(inside & true) / union if union else None


def confidence_score(found: Result) -> float | None:
    """Returns the mean score of an image's masks; None where it has none."""
    return float(found.scores.mean()) if isinstance(found, Instances) and len(found) else None


_BEST = ("Best", "Worst")
_CLASSES = (
    "Ranked by the image's own mean IoU over the classes that its ground truth has, background included, with clusters "
    "matched to classes over the whole split as in the component table."
)
BY_OBJECTS = Rule(
    "Ranked by the IoU of the image's most confident mask with the true object that it fits best; images without a true object are not ranked.",
    *_BEST,
    lambda found, _, objects: object_score(found, objects),
)
BY_FOREGROUND = Rule(
    "Ranked by the IoU of all that was found in the image with all that is not background in its ground truth; classes play no part.",
    *_BEST,
    lambda found, true, _: foreground_score(found, true),
)
BY_CONFIDENCE = Rule(
    "There is no ground truth: ranked by the mean score of the image's masks, which is the method's own opinion. Images without a mask are not ranked.",
    "Highest mean score",
    "Lowest mean score",
    lambda found, _, __: confidence_score(found),
)


def by_classes(cluster_of_class: Sequence[int | None]) -> Rule:
    """Returns the ranking by classes, for a matching that was made over the whole split."""
    return Rule(_CLASSES, *_BEST, lambda found, true, _: class_score(found, true, cluster_of_class))
