"""Instances: the object masks of one image, as compressed COCO run lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mdp_core.errors import DataError

Bitmap = NDArray[np.bool_]
_AREAS = 255
"""pycocotools counts the masks that it measures in 8 bits, and raises with more."""


@dataclass(frozen=True, eq=False)
class Instances:
    """The masks of one image.

    Attributes:
        height: Image height in pixels.
        width: Image width in pixels.
        masks: n compressed COCO run-length strings, each of size (height, width).
        boxes: float32 (n, 4), x0 y0 x1 y1 in pixels; x1 and y1 are exclusive, so width = x1 - x0.
        scores: float32 (n,) in [0, 1]; 1 where the maker has no opinion.
        labels: int32 (n,), cluster of each mask counted from 0; -1 = not yet clustered.
    """

    height: int
    width: int
    masks: tuple[bytes, ...]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]

    def __post_init__(self) -> None:
        n = len(self.masks)
        if self.boxes.shape != (n, 4) or self.scores.shape != (n,) or self.labels.shape != (n,):
            raise ValueError(f"{n} masks, boxes {self.boxes.shape}, scores {self.scores.shape}, labels {self.labels.shape}")

    def __len__(self) -> int:
        return len(self.masks)

    @classmethod
    def empty(cls, height: int, width: int) -> Instances:
        """Returns the instances of an image without any."""
        return cls.from_masks(np.zeros((0, height, width), dtype=np.bool_))

    @classmethod
    def from_masks(
        cls,
        masks: Bitmap,
        *,
        scores: Sequence[float] | NDArray[Any] | None = None,
        labels: Sequence[int] | NDArray[Any] | None = None,
        boxes: NDArray[Any] | None = None,
    ) -> Instances:
        """Builds instances from bitmaps.

        Args:
            masks: bool (n, H, W).
            scores: (n,) in [0, 1]; ones by default.
            labels: (n,); -1 by default.
            boxes: (n, 4) xyxy; the tight boxes of the masks by default (zeros for an empty mask).
        """
        n, height, width = masks.shape
        columns = np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))
        encoded = coco_mask.encode(columns) if n else []
        tight = coco_mask.toBbox(encoded).astype(np.float32) if n else np.zeros((0, 4), np.float32)
        tight[:, 2:] += tight[:, :2]
        return cls(
            height=height,
            width=width,
            masks=tuple(item["counts"] for item in encoded),
            boxes=tight if boxes is None else np.asarray(boxes, dtype=np.float32).reshape(n, 4),
            scores=np.ones(n, np.float32) if scores is None else np.asarray(scores, dtype=np.float32),
            labels=np.full(n, -1, np.int32) if labels is None else np.asarray(labels, dtype=np.int32),
        )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    def _coco(self, indices: Sequence[int] | range) -> list[dict[str, Any]]:
        return [{"size": [self.height, self.width], "counts": self.masks[i]} for i in indices]

    def mask(self, index: int) -> Bitmap:
        """Returns mask ``index`` as bool (H, W)."""
        return np.asarray(coco_mask.decode(self._coco([index])[0]), dtype=np.bool_)

    def to_masks(self) -> Bitmap:
        """Returns all masks as bool (n, H, W)."""
        if not len(self):
            return np.zeros((0, self.height, self.width), np.bool_)
        return np.asarray(coco_mask.decode(self._coco(range(len(self)))), dtype=np.bool_).transpose(2, 0, 1)

    def areas(self) -> NDArray[np.int64]:
        """Returns the mask areas in pixels, int64 (n,)."""
        if not len(self):
            return np.zeros(0, np.int64)
        few = [self._coco(range(start, min(start + _AREAS, len(self)))) for start in range(0, len(self), _AREAS)]
        return np.concatenate([np.asarray(coco_mask.area(some), dtype=np.int64) for some in few])

    def select(self, keep: NDArray[Any] | Sequence[int]) -> Instances:
        """Returns the instances at ``keep`` (indices in order, or a boolean mask)."""
        index = np.asarray(keep)
        index = np.flatnonzero(index) if index.dtype == np.bool_ else index.astype(np.int64)
        return replace(
            self,
            masks=tuple(self.masks[i] for i in index),
            boxes=self.boxes[index].reshape(-1, 4),
            scores=self.scores[index],
            labels=self.labels[index],
        )

    def with_labels(self, labels: Sequence[int] | NDArray[Any]) -> Instances:
        """Returns the same masks with other labels, int (n,)."""
        return replace(self, labels=np.asarray(labels, dtype=np.int32))

    def to_coco(self, image_id: int | str, *, first_id: int = 1, first_category: int = 1) -> list[dict[str, Any]]:
        """Returns COCO annotations with run-length masks; ids are counted from ``first_id``, category = label + ``first_category``."""
        areas = self.areas()
        return [
            {
                "id": first_id + i,
                "image_id": image_id,
                "category_id": int(self.labels[i]) + first_category,
                "segmentation": {"size": [self.height, self.width], "counts": self.masks[i].decode("ascii")},
                "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
                "area": float(areas[i]),
                "iscrowd": 0,
                "score": float(self.scores[i]),
            }
            for i, (x0, y0, x1, y1) in enumerate(self.boxes)
        ]

    @classmethod
    def from_coco(cls, annotations: Sequence[dict[str, Any]], height: int, width: int, *, first_category: int = 1) -> Instances:
        """Builds instances from COCO annotations of one image (polygons, uncompressed or compressed run lengths).

        Polygons of fewer than three points cover nothing. The box is ``bbox``, or the mask's tight box where there is none.

        Raises:
            DataError: An annotation has no mask, or one for an image of another size.
        """
        encoded = [_from_coco(annotation, height, width) for annotation in annotations]
        boxes = [a["bbox"] if "bbox" in a else coco_mask.toBbox(rle) for a, rle in zip(annotations, encoded, strict=True)]
        corners = np.array(boxes, dtype=np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        return cls(
            height=height,
            width=width,
            masks=tuple(rle["counts"] for rle in encoded),
            boxes=corners,
            scores=np.array([a.get("score", 1.0) for a in annotations], dtype=np.float32),
            labels=np.array([a["category_id"] - first_category for a in annotations], dtype=np.int32),
        )


def _from_coco(annotation: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """Returns the mask of a COCO annotation as one compressed run length with its counts in bytes."""
    where = f"annotation {annotation.get('id', '?')} of image {annotation.get('image_id', '?')}"
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        polygons = [points for points in segmentation if len(points) >= 6]
        if polygons:
            return dict(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
        segmentation = {"counts": [height * width]}
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise DataError(f"{where}: no polygons and no run lengths", hint="segmentation must be one of them, as in COCO")
    if list(segmentation.get("size", (height, width))) != [height, width]:
        raise DataError(
            f"{where}: a mask of height and width {segmentation['size']} for an image of {[height, width]}",
            hint="the annotations are of another copy of the image",
        )
    counts = segmentation["counts"]
    if isinstance(counts, list):
        return dict(coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width))
    return {"size": [height, width], "counts": counts.encode("ascii") if isinstance(counts, str) else counts}
