"""Checks of what a plugin makes of images: that it works, and that each result is what the interface promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mdp_core.data.instances import Instances
from mdp_core.data.label_map import LabelMap
from mdp_core.testing.registry import MAKERS, check
from mdp_core.testing.report import CheckFailedError, CheckSkippedError, said
from mdp_core.testing.samples import CLASSES, CLUSTERS, Samples
from mdp_core.testing.trial import Trial
from mdp_core.testing.work import Item

_TYPES: dict[str, type] = {"prior": Instances, "detector": Instances}
_SLACK = 0.5
"""Boxes may reach this many pixels beyond the image: rounding, not a mistake."""


@check(*MAKERS, "pretrainer")
def works_on_scenes(trial: Trial) -> None:
    """It does its work on eight ordinary small images without raising, and learns from them before where it is of a kind that learns."""
    error = trial.baseline.error
    if error is not None:
        remedy = (
            getattr(error, "hint", None)
            or "settings that suit images of 48×64 pixels can be given to the check: settings={…}, or --set"
        )
        raise CheckFailedError(f"it fails on the scenes: {said(error)}", remedy) from error


@check(*MAKERS)
def one_result_an_image(trial: Trial) -> None:
    """It yields one result an image, of the right type and of the image's own size (height, width): the engine refuses all else."""
    base = trial.baseline
    if base.count is not None:
        raise base.count
    _check_types(trial.kind, trial.worked.items, base.samples)


def _check_types(kind: str, items: list[Item], samples: Samples) -> None:
    expected = np.ndarray if kind == "clusterer" else _TYPES.get(kind, LabelMap)
    for sample, item in zip(samples, items, strict=True):
        name, size = sample.record.id, (sample.record.height, sample.record.width)
        for part in item[:1] if kind == "clusterer" else item:
            if not isinstance(part, expected):
                raise CheckFailedError(
                    f"{name}: it yielded a {type(part).__name__}", f"yield a {expected.__name__} for each image"
                )
            if isinstance(part, Instances | LabelMap) and part.size != size:
                raise CheckFailedError(
                    f"{name}: a result of {part.size[0]}×{part.size[1]} for an image of {size[0]}×{size[1]} (height×width)",
                    "bring masks and maps back to the image's own size",
                )


@check("prior")
def finds_something(trial: Trial) -> None:
    """It finds a mask in at least one of seven scenes with bright objects: the other checks would look at nothing."""
    if not any(len(found) for (found,) in _instances_only(trial)):
        raise CheckFailedError(
            "it found no mask in any of the scenes",
            "small images may need other settings (settings={…}); where it cannot find such objects, expect this check to fail, with the reason",
        )


def _instances_only(trial: Trial) -> list[Item]:
    return [item for item in trial.worked.items if all(isinstance(part, Instances) for part in item)]


def _found(trial: Trial) -> Iterator[tuple[str, Instances]]:
    for sample, item in zip(trial.worked.samples, trial.worked.items, strict=True):
        yield from ((sample.record.id, part) for part in item if isinstance(part, Instances))


@check("prior", "detector")
def masks_are_not_empty(trial: Trial) -> None:
    """Each mask has pixels, and is a COCO run-length code of its image: an empty one breaks what comes after, with no hint of why."""
    for name, found in _found(trial):
        check_masks(name, found)


@check("prior", "detector")
def boxes_lie_in_the_image(trial: Trial) -> None:
    """Boxes are float32 x0 y0 x1 y1 within the image, x1 > x0 and y1 > y0: clusterers crop them, detectors learn them."""
    for name, found in _found(trial):
        check_boxes(name, found)


@check("prior", "detector")
def scores_are_shares(trial: Trial) -> None:
    """Scores are float32, finite and in [0, 1]: refiners compare them with thresholds, and masks are ordered by them."""
    for name, found in _found(trial):
        check_scores(name, found)


@check("prior", "clusterer", "detector")
def labels_are_in_range(trial: Trial) -> None:
    """Labels are int32: -1 from a prior, 0..C-1 from clusterers and detectors. Others would be painted as other clusters, or crash."""
    clusters = trial.worked.fitted.clusters if trial.worked.fitted else CLUSTERS
    for sample, item in zip(trial.worked.samples, trial.worked.items, strict=True):
        check_labels(sample.record.id, trial.kind, item, clusters)


@check("clusterer")
def embeddings_are_vectors(trial: Trial) -> None:
    """Embeddings are finite float32 (masks, d) with one d for all images, (0, d) for an image without masks: they are stored and stacked."""
    widths: dict[int, str] = {}
    for sample, item in zip(trial.worked.samples, trial.worked.items, strict=True):
        check_embedding(sample.record.id, item[0], len(sample.masks))
        widths.setdefault(item[0].shape[1], sample.record.id)
    if len(widths) > 1:
        (d, name), (other_d, other), *_ = widths.items()
        raise CheckFailedError(
            f"{name} has embeddings of {d} numbers, {other} of {other_d}", "an image without masks gets shape (0, d)"
        )


@check("refiner", "segmenter", "probe")
def label_maps_are_right(trial: Trial) -> None:
    """Maps hold 0..C (a probe's: 0..classes-1), predictions no "ignore"; probabilities, if any, are float16 (C+1, h, w) that sum to 1."""
    for sample, item in zip(trial.worked.samples, trial.worked.items, strict=True):
        for part in item:
            if isinstance(part, LabelMap):
                check_label_map(sample.record.id, part, trial)


# One result


def check_items(trial: Trial, items: list[Item], samples: Samples) -> None:
    """Checks everything about results that can be said of each alone.

    Raises:
        CheckFailedError: Names the image.
    """
    _check_types(trial.kind, items, samples)
    clusters = trial.worked.fitted.clusters if trial.worked.fitted else CLUSTERS
    for sample, item in zip(samples, items, strict=True):
        name = sample.record.id
        if trial.kind == "clusterer":
            check_embedding(name, item[0], len(sample.masks))
        if trial.kind in ("prior", "clusterer", "detector"):
            check_labels(name, trial.kind, item, clusters)
        for part in item:
            if isinstance(part, LabelMap):
                check_label_map(name, part, trial)
            elif isinstance(part, Instances) and trial.kind != "clusterer":
                check_masks(name, part)
                check_boxes(name, part)
                check_scores(name, part)


def check_masks(name: str, found: Instances) -> None:
    """Checks that masks have pixels and are of their image's size."""
    for index in range(len(found)):
        try:
            size = found.mask(index).shape
        except Exception as error:
            raise CheckFailedError(
                f"{name}: mask {index} cannot be read: {said(error)}", "make them by Instances.from_masks"
            ) from error
        if size != found.size:
            raise CheckFailedError(
                f"{name}: mask {index} is {size}, its image {found.size}", "make them by Instances.from_masks"
            )
    empty = [index for index, area in enumerate(found.areas()) if area == 0]
    if empty:
        raise CheckFailedError(
            f"{name}: mask {empty[0]} of {len(found)} has no pixel", "leave out masks that nothing is left of"
        )


def check_boxes(name: str, found: Instances) -> None:
    """Checks that boxes lie within their image and have a size."""
    boxes: Any = found.boxes
    if boxes.dtype != np.float32:
        raise CheckFailedError(f"{name}: boxes are {boxes.dtype}", "float32; Instances.from_masks sees to it")
    for index, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        inside = -_SLACK <= x0 < x1 <= found.width + _SLACK and -_SLACK <= y0 < y1 <= found.height + _SLACK
        if not inside:
            raise CheckFailedError(
                f"{name}: box {index} is ({x0:g}, {y0:g}, {x1:g}, {y1:g}), the image {found.width} wide and {found.height} high",
                "x0 y0 x1 y1 in pixels, ends exclusive, x first; Instances.from_masks makes tight ones",
            )


def check_scores(name: str, found: Instances) -> None:
    """Checks that scores are float32 in [0, 1]."""
    scores: Any = found.scores
    if scores.dtype != np.float32:
        raise CheckFailedError(f"{name}: scores are {scores.dtype}", "float32; Instances.from_masks sees to it")
    wrong = [float(score) for score in scores if not 0 <= score <= 1]
    if wrong:
        raise CheckFailedError(
            f"{name}: a score is {wrong[0]:g}",
            "scores are in [0, 1] and never NaN (0/0 of an image of one colour?); 1 means no opinion",
        )


def check_labels(name: str, kind: str, item: Item, clusters: int) -> None:
    """Checks the labels of one image's masks."""
    labels: Any = item[1] if kind == "clusterer" else item[0].labels
    masks = len(item[2]) if kind == "clusterer" else len(item[0])
    if not isinstance(labels, np.ndarray) or labels.dtype != np.int32 or labels.shape != (masks,):
        raise CheckFailedError(
            f"{name}: labels are {getattr(labels, 'dtype', type(labels).__name__)} {getattr(labels, 'shape', '')}",
            f"int32 ({masks},)",
        )
    low, high = (-1, -1) if kind == "prior" else (0, clusters - 1)
    wrong = [int(label) for label in labels if not low <= label <= high]
    if wrong:
        expected = "-1: a prior does not cluster" if kind == "prior" else f"0..{high}: there are {clusters} clusters"
        raise CheckFailedError(f"{name}: a label is {wrong[0]}", f"labels are {expected}")


def check_embedding(name: str, row: Any, masks: int) -> None:
    """Checks the embeddings of one image."""
    if not isinstance(row, np.ndarray) or row.dtype != np.float32 or row.ndim != 2 or row.shape[0] != masks or not row.shape[1]:
        got = f"{row.dtype} {row.shape}" if isinstance(row, np.ndarray) else type(row).__name__
        raise CheckFailedError(f"{name}: embeddings are {got} for {masks} masks", f"float32 ({masks}, d)")
    if not np.isfinite(row).all():
        raise CheckFailedError(f"{name}: an embedding is not finite", "look for a division by zero")


def check_label_map(name: str, found: LabelMap, trial: Trial) -> None:
    """Checks one label map."""
    top = CLASSES - 1 if trial.kind == "probe" else CLUSTERS
    values = np.unique(found.values)
    allowed = [*range(top + 1), *([found.ignore] if trial.kind == "refiner" else [])]
    wrong = [int(value) for value in values if value not in allowed]
    if wrong:
        what = "classes" if trial.kind == "probe" else "clusters"
        raise CheckFailedError(
            f"{name}: a pixel is {wrong[0]}", f"0 is background, 1..{top} are {what}; only a refiner may say ignore"
        )
    probabilities: Any = found.probabilities
    if probabilities is None:
        if getattr(trial.config, "keeps_probabilities", False):
            raise CheckFailedError(f"{name}: no probabilities, which its settings promise", "see keeps_probabilities")
        return
    if probabilities.dtype != np.float16 or probabilities.ndim != 3 or len(probabilities) != top + 1:
        raise CheckFailedError(
            f"{name}: probabilities are {probabilities.dtype} {probabilities.shape}", f"float16 ({top + 1}, h, w)"
        )
    if not np.allclose(probabilities.astype(np.float32).sum(axis=0), 1, atol=0.02):
        raise CheckFailedError(f"{name}: probabilities do not sum to 1", "softmax over the labels comes first, then float16")


def skip_unless(condition: bool, why: str) -> None:
    """Skips the check at hand.

    Raises:
        CheckSkippedError: The condition does not hold.
    """
    if not condition:
        raise CheckSkippedError(why)
