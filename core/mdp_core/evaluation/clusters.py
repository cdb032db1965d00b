"""How well clusters of masks agree with the classes of true objects: ACC, NMI, ARI and purity; and the matching made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np

from mdp_core.data.instances import Instances
from mdp_core.data.label_map import LabelMap
from mdp_core.errors import DataError
from mdp_core.evaluation.confusion import Counts
from mdp_core.evaluation.localisation import box_ious
from mdp_core.evaluation.matching import Matching, Rule, hungarian, largest
from mdp_core.stages.dataset import TrueBoxes

NamingRule = Literal["boxes", "pixels"]
RULES: Mapping[NamingRule, str] = {
    "boxes": "each mask has the class of the true box with the largest box IoU (of equals, and where none overlaps, the image's first box)",
    "pixels": "each mask has the class that most of its labelled pixels have (of equals the first), background = no object",
}
"""How a mask gets its true class, in words."""
FORMAT = 1
_SLACK = 1.02
"""True boxes may reach this far beyond the image's side (and one pixel more); further, they are of another copy of the image."""


@dataclass(frozen=True)
class ClustersResult:
    """Agreement of clusters with classes over the masks of a split. All shares are in [0, 1].

    Attributes:
        class_names: Names of the K classes, background (= no object) first.
        counts: counts[cluster][class] in masks, C rows of K.
        acc: Share of masks whose cluster is matched with their class, one to one, as many as possible (Hungarian).
        nmi: Normalised mutual information (arithmetic mean of the entropies).
        ari: Adjusted Rand index, in [-1, 1].
        purity: Share of masks that have the most frequent class of their cluster.
        rule: How a mask got its true class, a key of ``RULES``.
        split: The split; images: its images with ground truth; without_truth: those without (left out).
        masks: Masks counted.
        without_overlap: Rule ``boxes``: masks counted that overlap no true box, and so have the class of their image's first box.
        left_out: Masks that cannot have a class: no true box in their image, or no labelled pixel in the mask.
        seed: The recipe's seed.
        ground_truth: Each use of ground truth, in words.
    """

    class_names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    acc: float
    nmi: float
    ari: float
    purity: float
    rule: NamingRule
    split: str
    images: int
    without_truth: int
    masks: int
    without_overlap: int
    left_out: int
    seed: int
    ground_truth: tuple[str, ...]

    @property
    def clusters(self) -> int:
        """Number of clusters C."""
        return len(self.counts)

    def metrics(self) -> dict[str, float]:
        """Returns flat numbers for a tracker: ``acc``, ``nmi``, ``ari``, ``purity``."""
        return {"acc": self.acc, "nmi": self.nmi, "ari": self.ari, "purity": self.purity}

    def notes(self) -> list[str]:
        """Returns what the scores hold for, in sentences."""
        left_out = {
            f"{self.without_overlap:,} masks overlap no true box": self.without_overlap,
            f"{self.left_out:,} masks could have no class and are left out": self.left_out,
            f"{self.without_truth:,} images have no ground truth and are left out": self.without_truth,
        }
        return [
            f"{self.masks:,} masks of {self.images:,} images of split {self.split} in {self.clusters} clusters; {RULES[self.rule]}.",
            *(f"{text}." for text, number in left_out.items() if number),
            f"Ground truth was used for: {'; '.join(self.ground_truth)}. Seed: {self.seed}.",
        ]

    def to_json(self) -> dict[str, Any]:
        """Returns the result as JSON-ready values."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {"format": FORMAT, **values, "counts": [list(row) for row in self.counts]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ClustersResult:
        """Rebuilds a result from ``to_json``; other keys are passed over.

        Raises:
            DataError: The values are not those of a clusters result.
        """
        try:
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']}, not {FORMAT}")
            values = {field.name: data[field.name] for field in fields(cls)}
            tuples = {name: tuple(values[name]) for name in ("class_names", "ground_truth")}
            counts = tuple(tuple(int(n) for n in row) for row in values["counts"])
            return cls(**{**values, **tuples, "counts": counts})
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"this is not a clusters result ({error})", hint="evaluate the run again") from error


class ObjectCounts:
    """Counts masks by (cluster, true class), image after image.

    Args:
        clusters: Number of clusters C; masks have labels 0..C-1.
        class_names: Names of the K classes, background first.

    Attributes:
        counts: int64 (C, K), masks of each cluster (row) and true class (column; 0 = no object).
    """

    def __init__(self, clusters: int, class_names: Sequence[str]) -> None:
        if clusters < 1 or len(class_names) < 2:
            raise ValueError(f"{clusters} clusters and {len(class_names)} classes cannot be compared")
        self.class_names = tuple(class_names)
        self.counts: Counts = np.zeros((clusters, len(class_names)), np.int64)
        self._rule: NamingRule | None = None
        self._images = self._without_truth = self._without_overlap = self._left_out = 0

    def add(self, image_id: str, found: Instances, truth: TrueBoxes | None) -> None:
        """Counts the masks of one image by the true box with the largest box IoU, which is the authors' rule.

        Of equal boxes the first one counts, and so the image's first box where none overlaps. The mask itself plays no part, only its
        box: an empty mask overlaps nothing. In an image without a true box masks can have no class; they are left out. The result says
        how many masks overlap no box, and how many are left out.

        Args:
            image_id: Names the image in errors.
            found: Clustered masks, labels 0..C-1.
            truth: True boxes, labels 0..K-2 (0 = the first object class); None: the image has no ground truth and is left out.

        Raises:
            DataError: A mask has no cluster or one out of range, a box has a class out of range, or boxes lie beyond the image.
        """
        self._use("boxes")
        if truth is None:
            self._without_truth += 1
            return
        self._check_labels(image_id, found)
        self._check_boxes(image_id, found, truth)
        self._images += 1
        if not len(truth.boxes):
            self._left_out += len(found)
        elif len(found):
            overlaps = box_ious(found.boxes, truth.boxes)
            best = overlaps.argmax(axis=1)
            self._without_overlap += int(np.count_nonzero(overlaps[np.arange(len(best)), best] == 0))
            np.add.at(self.counts, (found.labels, truth.labels[best] + 1), 1)

    def add_pixels(self, image_id: str, found: Instances, truth: LabelMap | None) -> None:
        """Counts the masks of one image by the true class that most of their labelled pixels have, background included as "no object".

        For datasets without objects in their ground truth. Of equal classes the first one counts, background before all. A mask
        without a labelled pixel, such as an empty one, is left out.

        Args:
            image_id: Names the image in errors.
            found: Clustered masks, labels 0..C-1.
            truth: True classes 0..K-1, or ignore, of the same size; None: the image has no ground truth and is left out.

        Raises:
            DataError: The sizes differ, a mask has no cluster or one out of range, or the truth holds a class out of range.
        """
        self._use("pixels")
        if truth is None:
            self._without_truth += 1
            return
        if found.size != truth.size:
            height, width = truth.size
            raise DataError(
                f"{image_id}: the masks are {found.width}×{found.height} px, the ground truth {width}×{height} px",
                hint="the ground truth must have the size of its image; check that it belongs to this image and is not scaled",
            )
        self._check_labels(image_id, found)
        classes = self.counts.shape[1]
        top = int(truth.values[truth.values != truth.ignore].max(initial=0))
        if top >= classes:
            raise DataError(
                f"{image_id}: the ground truth holds class {top}, but the dataset names classes 0..{classes - 1}",
                hint=f"correct the dataset's class names, or mark such pixels as ignore ({truth.ignore})",
            )
        self._images += 1
        for index, label in enumerate(found.labels):
            inside = truth.values[found.mask(index)]
            of_class = np.bincount(inside[inside != truth.ignore], minlength=classes)
            if of_class.any():
                self.counts[label, of_class.argmax()] += 1
            else:
                self._left_out += 1

    def result(self, *, split: str, seed: int, labels_used: Sequence[str] = ()) -> ClustersResult:
        """Returns the scores.

        Args:
            split: The split that was counted.
            seed: The recipe's seed.
            labels_used: Other uses of ground truth before the clustering, such as the plugins' ``uses_labels``.

        Raises:
            DataError: There is no mask to score.
        """
        from sklearn.metrics import (
            adjusted_rand_score,
            normalized_mutual_info_score,
        )  # seconds, which only a new evaluation needs

        masks = int(self.counts.sum())
        if not masks:
            raise DataError(
                f"split {split}: no clustered mask lies in an image with ground truth "
                f"({self._images} images with, {self._without_truth} without; {self._left_out} masks left out)",
                hint="leave `clusters` and `clustering-objects` out of `evaluate:`, or mend the dataset's ground truth",
            )
        clusters, classes = (np.repeat(index.ravel(), self.counts.ravel()) for index in np.indices(self.counts.shape))
        matched = hungarian(self.counts)
        return ClustersResult(
            class_names=self.class_names,
            counts=tuple(tuple(int(n) for n in row) for row in self.counts),
            acc=sum(int(self.counts[c, true]) for c, true in enumerate(matched) if true is not None) / masks,
            nmi=float(normalized_mutual_info_score(classes, clusters)),
            ari=float(adjusted_rand_score(classes, clusters)),
            purity=int(self.counts.max(axis=1).sum()) / masks,
            rule=self._rule or "boxes",
            split=split,
            images=self._images,
            without_truth=self._without_truth,
            masks=masks,
            without_overlap=self._without_overlap,
            left_out=self._left_out,
            seed=seed,
            ground_truth=(*labels_used, f"naming the class of each mask (split {split})", f"scoring (split {split})"),
        )

    def _use(self, rule: NamingRule) -> None:
        if self._rule not in (None, rule):
            raise ValueError("masks are counted by boxes or by pixels, not by both")
        self._rule = rule

    def _check_labels(self, image_id: str, found: Instances) -> None:
        clusters = len(self.counts)
        low, high = int(found.labels.min(initial=0)), int(found.labels.max(initial=0))
        if low < 0:
            raise DataError(f"{image_id}: a mask has no cluster", hint="clusters are scored after a clusterer, not before it")
        if high >= clusters:
            raise DataError(
                f"{image_id}: a mask is of cluster {high}, but there are {clusters} clusters, counted from 0",
                hint="a stage predicted labels that it was not trained on; report this to the maker of its plugin",
            )

    def _check_boxes(self, image_id: str, found: Instances, truth: TrueBoxes) -> None:
        objects = self.counts.shape[1] - 1
        low, high = int(truth.labels.min(initial=0)), int(truth.labels.max(initial=0))
        if low < 0 or high >= objects:
            raise DataError(
                f"{image_id}: a true box is of object class {low if low < 0 else high}, but the dataset names classes 0..{objects - 1}",
                hint="correct the dataset's class names",
            )
        right, bottom = truth.boxes[:, 2].max(initial=0), truth.boxes[:, 3].max(initial=0)
        if right > found.width * _SLACK + 1 or bottom > found.height * _SLACK + 1:
            raise DataError(
                f"{image_id}: the image is {found.width}×{found.height} px, but its true boxes reach to {right:g}, {bottom:g}",
                hint="the ground truth must have the size of its image; check that it belongs to this image and is not scaled",
            )


def object_matching(result: ClustersResult) -> Matching:
    """Matches clusters with classes on objects, the authors' way, for label maps: label 0 is background, label c+1 is cluster c.

    One to one (Hungarian) so that as many masks as possible have their cluster's class; where there are more clusters than object
    classes (over-clustering), each cluster gets the class that most of its masks have. A cluster that shares no mask with any class it
    could have stands for none. (The authors' code gives such clusters the classes that are left over, in the solver's order.)
    """
    counts = np.array(result.counts, np.int64)
    over = len(counts) > len(result.class_names) - 1
    rule: Rule = "majority" if over else "hungarian"
    classes = largest(counts) if over else hungarian(counts)
    shared = (0 if true is None else int(counts[cluster, true]) for cluster, true in enumerate(classes))
    return Matching((0, *classes), len(result.class_names), (0, *shared), rule=rule, unit="objects", split=result.split)
