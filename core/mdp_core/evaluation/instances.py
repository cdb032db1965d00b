"""The ``instances`` protocol: AP of masks against true objects, multi-object and single-object, class-agnostic and class-aware (paper A.4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mdp_core.data.instances import Instances
from mdp_core.errors import DataError
from mdp_core.evaluation import single_object
from mdp_core.evaluation.average_precision import MAX_DETECTIONS, Flags, Floats, Found, Integers, Matches, Pairs
from mdp_core.evaluation.instance_pool import Classes, ImagePairs, InstancePool
from mdp_core.evaluation.instance_result import InstanceProtocol, InstanceResult, InstanceScores
from mdp_core.evaluation.matching import hungarian

SINGLE_RULE = (
    "in each image with a detection, the one of highest score against the true object of largest box IoU to it, all other objects removed; "
    "images without a detection are left out, as in the authors' code (single_strict counts their largest object as missed)"
)


class InstanceEvaluation:
    """Compares masks with true objects, image after image.

    What is kept of an image is the scores and labels of its detections and the pairs that reach IoU 0.5: some hundred bytes. The order of
    the images plays no part: equal scores in different images count in the order of the sorted image ids.

    Args:
        class_names: Names of the classes, background first, as ``Dataset.class_names``.
        clusters: Number of clusters C; the labels of detections are 0..C-1, or -1. 0: nothing is clustered,
            labels mean nothing, class-agnostic scores only.
    """

    def __init__(self, class_names: Sequence[str], clusters: int) -> None:
        if clusters < 0 or len(class_names) < 2:
            raise ValueError(f"{clusters} clusters and the classes {list(class_names)} (background first) cannot be compared")
        self.class_names = tuple(class_names[1:])
        self.clusters = clusters
        self._images: dict[str, ImagePairs] = {}

    @property
    def images(self) -> int:
        """Number of images so far."""
        return len(self._images)

    def add(self, image_id: str, found: Instances, truth: Instances, crowds: Instances | None = None) -> None:
        """Compares the masks of one image. An image without a true object counts: what is found there is wrong.

        An empty mask that was found is wrong, a true object with an empty mask is missed: their IoU with anything is 0.

        Args:
            image_id: Names the image; unique.
            found: What was found. Of more than 100 masks of one cluster the 100 with the highest scores count.
            truth: The true objects, of the same image size; labels 0..K-1 index the object classes.
            crowds: Regions of many objects; what lies in one, and matches no object, is neither right nor wrong.

        Raises:
            DataError: The sizes differ, a label is out of its range, a score or a box is no finite number, or the image was added
                before. Nothing of the image is counted then.
        """
        crowds = Instances.empty(truth.height, truth.width) if crowds is None else crowds
        found = found if self.clusters else found.with_labels(np.full(len(found), -1))
        self._check(image_id, found, truth, crowds)
        order = np.argsort(-found.scores, kind="stable")
        found = found.select(order[_first_of_each_label(found.labels[order])])
        crowd = np.repeat([False, True], [len(truth), len(crowds)])
        boxes = _ious(_corner_and_size(found), np.concatenate([_corner_and_size(truth), _corner_and_size(crowds)]), crowd)
        best = single_object.detection_of(found.scores)
        self._images[image_id] = ImagePairs(
            scores=found.scores,
            labels=found.labels,
            classes=np.concatenate([truth.labels, crowds.labels]),
            objects=len(truth),
            masks=Pairs.of(_ious(_run_lengths(found), _run_lengths(truth) + _run_lengths(crowds), crowd), crowd),
            boxes=Pairs.of(boxes, crowd),
            single=None if best is None else single_object.object_of(boxes[best, : len(truth)]),
            missed=single_object.missed_object_of(truth.areas()) if best is None else None,
        )

    def result(
        self,
        *,
        split: str,
        seed: int,
        labels_used: Sequence[str] = (),
        class_of_cluster: Classes | None = None,
        matching_words: str | None = None,
    ) -> InstanceResult:
        """Returns the scores of all images so far.

        Args:
            split: The evaluated split.
            seed: The recipe's seed.
            labels_used: Other uses of ground truth, such as the plugins' ``uses_labels``.
            class_of_cluster: For each cluster the index of its object class (0 = the first after background) or None, where they were
                matched elsewhere (see ``object_classes``); several clusters may share a class. None: they are matched here, one to one.
            matching_words: How and on which split ``class_of_cluster`` was made; needed with it.

        Raises:
            DataError: No image has a true object.
            ValueError: The arguments do not belong together.
        """
        if (class_of_cluster is None) != (matching_words is None):
            raise ValueError("a matching and the words that say how it was made come together")
        pool = InstancePool.of([self._images[image_id] for image_id in sorted(self._images)])
        if not (~pool.crowd).any():
            raise DataError(
                f"split {split}: none of its {self.images} images has a true object",
                hint="instances are evaluated against true masks; check data.eval, or take `instances` out of `evaluate:`",
            )
        clustered = bool((pool.labels >= 0).any())
        agnostic = pool.matches(pool.multi(None))
        counts = self._evidence(pool, pool.matches(pool.clustered()) if clustered and (pool.labels < 0).any() else agnostic)
        matched = self._ready(class_of_cluster) if class_of_cluster is not None else hungarian(counts)
        words = (
            matching_words or f"hungarian, detections that are right at mask IoU 0.5 with classes disregarded, split {split}"
        )
        uses = (
            *labels_used,
            *([f"matching clusters with classes ({words})"] if clustered else []),
            f"choosing the object of the single-object setting (split {split})",
            f"scoring (split {split})",
        )
        return InstanceResult(
            class_names=self.class_names,
            settings=self._settings(pool, agnostic, matched if clustered else None),
            class_of_cluster=matched,
            evidence=int(counts.sum()),
            agreeing=sum(int(counts[cluster, index]) for cluster, index in enumerate(matched) if index is not None),
            unclustered=int(np.count_nonzero(pool.labels < 0)),
            undetected=int(np.count_nonzero(pool.missed)),
            objectless=int(np.count_nonzero(pool.objects == 0)),
            protocol=InstanceProtocol(split, self.images, words if clustered else "none", SINGLE_RULE, uses, seed),
        )

    def _settings(self, pool: InstancePool, agnostic: Matches, matched: Classes | None) -> dict[str, InstanceScores]:
        """Returns the scores of each setting; ``matched`` None: of the class-agnostic ones."""
        settings = {"multi.agnostic": pool.scores(pool.multi(None), 1, pool.images, agnostic)}
        if matched is not None:
            settings["multi.aware"] = pool.scores(pool.multi(matched), len(self.class_names), pool.images)
        for strict in (False, True):
            name, images = ("single_strict", pool.detected + int(pool.missed.sum())) if strict else ("single", pool.detected)
            settings[f"{name}.agnostic"] = pool.scores(pool.single_object(None, strict), 1, images)
            if matched is not None:
                settings[f"{name}.aware"] = pool.scores(pool.single_object(matched, strict), len(self.class_names), images)
        return settings

    def _evidence(self, pool: InstancePool, matches: Matches) -> NDArray[np.int64]:
        """Counts the detections that found an object, int64 (C, K): cluster of the detection, class of the object."""
        counts = np.zeros((self.clusters, len(self.class_names)), np.int64)
        right = (matches.objects >= 0) & (pool.labels >= 0)
        np.add.at(counts, (pool.labels[right], pool.classes[matches.objects[right]]), 1)
        return counts

    def _ready(self, class_of_cluster: Classes) -> tuple[int | None, ...]:
        classes = range(len(self.class_names))
        if len(class_of_cluster) != self.clusters or any(
            index is not None and index not in classes for index in class_of_cluster
        ):
            raise ValueError(
                f"class_of_cluster gives each of {self.clusters} clusters one of the classes 0..{len(classes) - 1}, or None; "
                f"not {list(class_of_cluster)}"
            )
        return tuple(class_of_cluster)

    def _check(self, image_id: str, found: Instances, truth: Instances, crowds: Instances) -> None:
        if image_id in self._images:
            raise DataError(f"{image_id}: the image was evaluated before", hint="ids of images must be unique in a split")
        for what, other in (("true objects", truth), ("crowd regions", crowds)):
            if other.size != found.size:
                raise DataError(
                    f"{image_id}: the masks are {found.width}×{found.height} px, the {what} {other.width}×{other.height} px",
                    hint="the ground truth must have the size of its image; check that it belongs to this image and is not scaled",
                )
            _check_labels(image_id, f"the {what} have", other.labels, 0, len(self.class_names) - 1)
        _check_labels(image_id, "the masks have", found.labels, -1, self.clusters - 1)
        for what, values in (("score", found.scores), ("box", found.boxes), ("box of a true object", truth.boxes)):
            if not np.isfinite(values).all():
                raise DataError(
                    f"{image_id}: a {what} is not a finite number", hint="the network diverged, or a file is damaged"
                )


def object_classes(class_of_label: Classes) -> tuple[int | None, ...]:
    """Turns a matching of label maps (label 0 and class 0 = background) into the class of each cluster, counted from 0.

    A cluster that stands for background has no class.
    """
    return tuple(index - 1 if index else None for index in class_of_label[1:])


def _first_of_each_label(labels: Integers) -> Flags:
    """Returns which detections can count, bool (n,): the first ``MAX_DETECTIONS`` of each label; labels by falling score."""
    if len(labels) <= MAX_DETECTIONS:
        return np.ones(len(labels), np.bool_)
    return Found(np.zeros_like(labels), np.zeros(len(labels), np.float32), labels + 1).counted()  # label -1 is a group, too


def _check_labels(image_id: str, who: str, labels: Integers, low: int, high: int) -> None:
    if len(labels) and not low <= int(labels.min()) <= int(labels.max()) <= high:
        wrong = int(labels.min()) if int(labels.min()) < low else int(labels.max())
        raise DataError(
            f"{image_id}: {who} label {wrong}, but labels are {low}..{high}",
            hint="correct the dataset's class names"
            if low == 0
            else "a stage gave a cluster that does not exist; report it to its maker",
        )


def _run_lengths(instances: Instances) -> list[dict[str, object]]:
    size = [instances.height, instances.width]
    return [{"size": size, "counts": counts} for counts in instances.masks]


def _corner_and_size(instances: Instances) -> Floats:
    """Returns boxes as COCO has them, x y width height, float64 (n, 4)."""
    corners, sizes = instances.boxes[:, :2], instances.boxes[:, 2:] - instances.boxes[:, :2]
    return np.asarray(np.concatenate([corners, sizes], axis=1), dtype=np.float64)


def _ious(found: list[dict[str, object]] | Floats, truth: list[dict[str, object]] | Floats, crowd: Flags) -> Floats:
    """Returns pycocotools' IoU of each of ``found`` with each of ``truth``, float64 (n, m)."""
    if not len(found) or not len(truth):
        return np.zeros((len(found), len(truth)))
    return np.asarray(coco_mask.iou(found, truth, crowd.astype(np.uint8).tolist()), dtype=np.float64)
