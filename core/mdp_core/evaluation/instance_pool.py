"""What the ``instances`` protocol keeps of each image, and all images as flat arrays, from which each setting is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mdp_core.evaluation.average_precision import Flags, Found, Integers, Matches, Pairs, Truth, average_precision, match
from mdp_core.evaluation.instance_result import InstanceScores

Classes = Sequence[int | None]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, eq=False, slots=True)
class ImagePairs:
    """What is kept of an image. Detections by falling score; true objects first, then crowd regions.

    Attributes:
        scores: float32 (n,), of the detections; labels: int32 (n,), their clusters, -1 = none.
        classes: int32 (m,), of the true objects and the crowd regions; objects: how many of them are objects.
        masks: Pairs by mask IoU; boxes: by box IoU.
        single: The object of the single-object setting; None where the image has no detection or no object.
        missed: The object that an image without a detection misses in ``single_strict``, otherwise None.
    """

    scores: NDArray[np.float32]
    labels: Integers
    classes: Integers
    objects: int
    masks: Pairs
    boxes: Pairs
    single: int | None
    missed: int | None


@dataclass(frozen=True, eq=False)
class InstancePool:
    """All images as flat arrays, in the order of the sorted ids: n detections, m true objects and crowd regions, i images.

    Attributes:
        of_image: int32 (n,), the image of each detection.
        confidences: float32 (n,), the scores of the detections; labels: int32 (n,), their clusters, -1 = none.
        first: bool (n,), the detection that represents its image in the single-object setting.
        classes: int32 (m,); crowd: bool (m,), which are crowd regions.
        chosen: bool (m,), what the single-object setting keeps; missed_objects: bool (m,), what ``single_strict`` adds.
        objects: int32 (i,), number of true objects; missed: bool (i,), images that have some and no detection.
        detected: Number of images with a detection.
        masks: Pairs by mask IoU; boxes: by box IoU.
    """

    of_image: Integers
    confidences: NDArray[np.float32]
    labels: Integers
    first: Flags
    classes: Integers
    crowd: Flags
    chosen: Flags
    missed_objects: Flags
    objects: Integers
    missed: Flags
    detected: int
    masks: Pairs
    boxes: Pairs

    @classmethod
    def of(cls, images: Sequence[ImagePairs]) -> InstancePool:
        """Joins images, given in the order of their sorted ids."""
        found = np.array([len(image.scores) for image in images], np.int64)
        truth = np.array([len(image.classes) for image in images], np.int64)
        objects = np.array([image.objects for image in images], np.int32)
        crowd, chosen, missed = (np.zeros(int(truth.sum()), np.bool_) for _ in range(3))
        first = np.zeros(int(found.sum()), np.bool_)
        starts, found_starts = np.cumsum(truth) - truth, np.cumsum(found) - found
        first[found_starts[found > 0]] = True
        for image, start in zip(images, starts, strict=True):
            crowd[start + image.objects : start + len(image.classes)] = True
            if image.single is not None:
                chosen[start + image.single] = True
            elif image.missed is not None:
                missed[start + image.missed] = True
            elif not image.objects:  # its crowd regions stay
                chosen[start : start + len(image.classes)] = True
        return cls(
            of_image=np.repeat(np.arange(len(images), dtype=np.int32), found),
            confidences=_joined([image.scores for image in images], np.float32),
            labels=_joined([image.labels for image in images], np.int32),
            first=first,
            classes=_joined([image.classes for image in images], np.int32),
            crowd=crowd,
            chosen=chosen,
            missed_objects=missed,
            objects=objects,
            missed=(found == 0) & (objects > 0),
            detected=int(np.count_nonzero(found)),
            masks=_shifted([image.masks for image in images], found_starts, starts),
            boxes=_shifted([image.boxes for image in images], found_starts, starts),
        )

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.objects)

    def multi(self, matched: Classes | None) -> tuple[Found, Truth]:
        """Returns all detections and objects; ``matched``: the class of each cluster, None = classes are disregarded."""
        if matched is None:
            found, truth = np.zeros_like(self.labels), np.zeros_like(self.classes)
        else:
            of_label = np.array([*(-1 if index is None else index for index in matched), -1], np.int32)  # the last: label -1
            found, truth = of_label[self.labels], self.classes
        return Found(self.of_image, self.confidences, found), Truth(truth, self.crowd)

    def clustered(self) -> tuple[Found, Truth]:
        """Returns the detections that have a cluster, whichever it is, and all objects; classes are disregarded."""
        found, truth = self.multi(None)
        return Found(found.images, found.scores, np.where(self.labels < 0, -1, 0).astype(np.int32)), truth

    def single_object(self, matched: Classes | None, strict: bool) -> tuple[Found, Truth]:
        """Returns what the single-object setting keeps of them."""
        found, truth = self.multi(matched)
        kept = self.chosen | self.missed_objects if strict else self.chosen
        return (
            Found(found.images, found.scores, np.where(self.first, found.classes, -1).astype(np.int32)),
            Truth(np.where(kept, truth.classes, -1).astype(np.int32), truth.crowd),
        )

    def matches(self, sides: tuple[Found, Truth]) -> Matches:
        """Matches the two sides by masks."""
        return match(*sides, self.masks)

    def scores(self, sides: tuple[Found, Truth], classes: int, images: int, matches: Matches | None = None) -> InstanceScores:
        """Scores one setting; ``matches`` of masks, where they are known."""
        matches = matches or self.matches(sides)
        masks = average_precision(*sides, matches, classes)
        boxes = average_precision(*sides, match(*sides, self.boxes), classes)
        return InstanceScores(
            ap=masks.ap,
            ap50=masks.ap50,
            ap75=masks.ap75,
            box_ap=boxes.ap,
            box_ap50=boxes.ap50,
            ar100=masks.ar100,
            images=images,
            detections=int(np.count_nonzero(matches.counted)),
            objects=int(sides[1].objects(classes).sum()),
            class_ap=masks.class_ap,
        )


def _joined(parts: Sequence[NDArray[Scalar]], dtype: type[Scalar]) -> NDArray[Scalar]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype)


def _shifted(parts: Sequence[Pairs], found: NDArray[np.int64], truth: NDArray[np.int64]) -> Pairs:
    """Joins the pairs of images into one set, counted through the split; found, truth: where each image starts."""
    counts = [len(part.found) for part in parts]
    return Pairs(
        _joined([part.found for part in parts], np.int32) + np.repeat(found, counts).astype(np.int32),
        _joined([part.truth for part in parts], np.int32) + np.repeat(truth, counts).astype(np.int32),
        _joined([part.bits for part in parts], np.uint16),
    )
