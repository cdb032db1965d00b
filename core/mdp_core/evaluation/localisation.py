"""How well class-agnostic masks, such as a prior's, find true objects: hit rate, best IoU and CorLoc. Their AP: the ``instances`` protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mdp_core.data.instances import Instances
from mdp_core.errors import DataError

Overlaps = NDArray[np.float64]


@dataclass(frozen=True)
class LocalisationResult:
    """Scores over the images of a split that have a true object. All shares are in [0, 1].

    The *first* mask of an image is its most confident one, among equals the earliest.

    Attributes:
        images: Images with a true object, the ones that count; skipped: images without one.
        empty: Images that count and have no mask; they miss, with IoU 0.
        masks: Masks in the images that count.
        hit: Share of images whose first mask has a mask IoU > 0.5 with some true object.
        hit_any: Share of images of which some mask has.
        mean_best_iou: Mean over images of the largest mask IoU between any mask and any true object.
        corloc: Share of images whose first mask's box has a box IoU ≥ 0.5 with some true box.
    """

    images: int
    skipped: int
    empty: int
    masks: int
    hit: float
    hit_any: float
    mean_best_iou: float
    corloc: float

    def metrics(self) -> dict[str, float]:
        """Returns flat numbers for a tracker."""
        names = ("hit", "hit_any", "mean_best_iou", "corloc")
        return {name: float(getattr(self, name)) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Returns the result as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LocalisationResult:
        """Rebuilds a result from ``to_json``.

        Raises:
            DataError: The values are not those of a localisation result.
        """
        try:
            return cls(**data)
        except TypeError as error:
            raise DataError(f"this is not a localisation result ({error})", hint="evaluate the run again") from error


class Localisation:
    """Compares masks with true objects, image after image. Labels play no part."""

    def __init__(self) -> None:
        self._images = self._skipped = self._empty = self._masks = 0
        self._hits = self._hits_any = self._boxes = 0
        self._best_sum = 0.0

    def add(self, image_id: str, masks: Instances, truth: Instances) -> None:
        """Compares the masks of one image.

        Args:
            image_id: Names the image in errors.
            masks: What was found.
            truth: The true objects, of the same image size.

        Raises:
            DataError: The sizes differ.
        """
        if masks.size != truth.size:
            raise DataError(
                f"{image_id}: the masks are {masks.width}×{masks.height} px, the true objects {truth.width}×{truth.height} px",
                hint="the ground truth must have the size of its image; check that it belongs to this image and is not scaled",
            )
        if not len(truth):
            self._skipped += 1
            return
        self._images += 1
        self._masks += len(masks)
        if not len(masks):
            self._empty += 1
            return
        first = int(np.argmax(masks.scores))
        overlaps = mask_ious(masks, truth)
        best = float(overlaps.max())
        self._best_sum += best
        self._hits += bool(overlaps[first].max() > 0.5)
        self._hits_any += best > 0.5
        self._boxes += bool(box_ious(masks.boxes[first : first + 1], truth.boxes).max() >= 0.5)

    def result(self) -> LocalisationResult | None:
        """Returns the scores so far; None where no image had a true object (there is no instance ground truth)."""
        if not self._images:
            return None
        return LocalisationResult(
            images=self._images,
            skipped=self._skipped,
            empty=self._empty,
            masks=self._masks,
            hit=self._hits / self._images,
            hit_any=self._hits_any / self._images,
            mean_best_iou=self._best_sum / self._images,
            corloc=self._boxes / self._images,
        )


def mask_ious(a: Instances, b: Instances) -> Overlaps:
    """Returns the mask IoU of each of ``a`` with each of ``b``, float64 (n, m) in [0, 1]; two empty masks have 0."""
    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)))
    sides = [[{"size": [one.height, one.width], "counts": counts} for counts in one.masks] for one in (a, b)]
    return np.asarray(coco_mask.iou(*sides, [0] * len(b)), dtype=np.float64)


def box_ious(a: NDArray[np.float32], b: NDArray[np.float32]) -> Overlaps:
    """Returns the IoU of boxes (n, 4) and (m, 4), x0 y0 x1 y1 with exclusive ends: float64 (n, m) in [0, 1]; empty boxes have 0."""
    first, second = a.astype(np.float64)[:, None], b.astype(np.float64)[None, :]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    shared = np.maximum(sides, 0.0).prod(axis=-1)
    union = (first[..., 2:] - first[..., :2]).prod(axis=-1) + (second[..., 2:] - second[..., :2]).prod(axis=-1) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0), dtype=np.float64)
