"""Semantic segmentation scores of a split: IoU per class, mIoU and pixel accuracy, with the protocol that they hold for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from mdp_core.errors import DataError
from mdp_core.evaluation.confusion import Confusion, Counts
from mdp_core.evaluation.matching import Matching, Rule, Unit, match

FORMAT = 2
LAST = "last"
"""The checkpoint that was not chosen by any score."""


@dataclass(frozen=True)
class EvaluationProtocol:
    """What a score was measured on, and how; without it two scores cannot be compared.

    Attributes:
        split: The split that was evaluated; images: how many images of it.
        matching: How labels became classes, in words, for example ``"hungarian, pixels, split val"``.
        ground_truth: Each use of ground truth, in words. The last one is always the scoring itself.
        seed: The recipe's seed.
        checkpoint: Which state of a trained model was evaluated; ``"last"`` = none was chosen by its score.
        dense_crf: Whether a dense CRF refined the predictions.
        background_included: Whether background counts in the mIoU.
        matching_rule: ``hungarian`` (one to one), ``majority`` (many to one) or ``identity`` (labels are classes).
        matching_unit: What the matching counted: pixels or objects.
        matching_split: The split that the matching was made on; None = nothing was matched.
        without_truth: Images of the split that have no ground truth; they are left out.
    """

    split: str
    images: int
    matching: str
    ground_truth: tuple[str, ...]
    seed: int
    checkpoint: str = LAST
    dense_crf: bool = False
    background_included: bool = True
    matching_rule: Rule = "hungarian"
    matching_unit: Unit = "pixels"
    matching_split: str | None = None
    without_truth: int = 0


@dataclass(frozen=True)
class SemanticResult:
    """Scores of one stage's label maps on one split. All shares are in [0, 1].

    Attributes:
        class_names: Names of the K classes, background first.
        iou: IoU per class; None where the truth has no pixel of the class, 0 where no label stands for the class.
        miou: Mean of ``iou`` over the classes that the truth has. Counts are pooled over the split first, so it is not a mean over images.
        pixel_accuracy: Share of labelled pixels whose predicted label stands for their class.
        class_of_label: Class of each predicted label 0..C (0 = predicted background); None = none.
        cluster_of_class: One predicted label per class, of several the one that shares most pixels with it; None = none.
        counts: Confusion counts: counts[label][class] in pixels, C+1 rows of K.
        unpredicted: Pixels per class for which the prediction said ignore; they count as wrong.
        protocol: What the scores hold for.
    """

    class_names: tuple[str, ...]
    iou: tuple[float | None, ...]
    miou: float
    pixel_accuracy: float
    class_of_label: tuple[int | None, ...]
    cluster_of_class: tuple[int | None, ...]
    counts: tuple[tuple[int, ...], ...]
    unpredicted: tuple[int, ...]
    protocol: EvaluationProtocol

    @property
    def class_pixels(self) -> tuple[int, ...]:
        """Labelled pixels of each class in the truth."""
        return tuple(sum(column) + rest for *column, rest in zip(*self.counts, self.unpredicted, strict=True))

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of the classes of which the truth has no pixel."""
        return tuple(name for name, iou in zip(self.class_names, self.iou, strict=True) if iou is None)

    @property
    def miou_absent_zero(self) -> float:
        """The mIoU with absent classes counted as 0, as the authors' code does; the same as ``miou`` where none is absent."""
        return sum(iou or 0.0 for iou in self.iou) / len(self.iou)

    def by_class(self) -> Counts:
        """Returns pixels by predicted class (row) and true class (column), int64 (K+1, K); the last row = labels without a class."""
        return pooled(np.array(self.counts, np.int64), self.class_of_label)

    def metrics(self) -> dict[str, float]:
        """Returns flat numbers for a tracker: ``miou``, ``pixel_accuracy`` and ``iou/<class>`` of the classes present.

        Where classes are absent there is ``miou_absent_zero`` as well.
        """
        per_class = {f"iou/{name}": iou for name, iou in zip(self.class_names, self.iou, strict=True) if iou is not None}
        second = {"miou_absent_zero": self.miou_absent_zero} if self.absent else {}
        return {"miou": self.miou, "pixel_accuracy": self.pixel_accuracy, **second, **per_class}

    def to_json(self) -> dict[str, Any]:
        """Returns the result as JSON-ready values (lists, numbers, strings, None)."""
        return {"format": FORMAT, **{name: _listed(value) for name, value in asdict(self).items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SemanticResult:
        """Rebuilds a result from ``to_json``, of this format or of format 1 (matching was one to one then); other keys are passed over.

        Raises:
            DataError: The values are not of these formats.
        """
        if data.get("format") not in (1, FORMAT):
            raise DataError(
                f"a semantic result of format {data.get('format')!r} cannot be read, this version reads formats 1 and {FORMAT}",
                hint="evaluate the run again",
            )
        try:
            known = _from_format_1(data) if data["format"] == 1 else data
            values = {field.name: _tupled(known[field.name]) for field in fields(cls) if field.name != "protocol"}
            protocol = {name: _tupled(value) for name, value in known["protocol"].items()}
            return cls(**values, protocol=EvaluationProtocol(**protocol))
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise DataError(f"this is not a semantic result ({error})", hint="evaluate the run again") from error


def _from_format_1(data: Mapping[str, Any]) -> dict[str, Any]:
    class_of_label: list[int | None] = [None] * len(data["counts"])
    for true, label in enumerate(data["cluster_of_class"]):
        if label is not None:
            class_of_label[label] = true
    split = str(data["protocol"]["matching"]).rpartition("split ")[2]
    return {**data, "class_of_label": class_of_label, "protocol": {**data["protocol"], "matching_split": split}}


def evaluate(
    confusion: Confusion,
    class_names: Sequence[str],
    *,
    split: str,
    seed: int,
    matching: Matching | None = None,
    matching_words: str | None = None,
    labels_used: Sequence[str] = (),
    dense_crf: bool = False,
    checkpoint: str = LAST,
) -> SemanticResult:
    """Scores the label maps of one stage.

    Args:
        confusion: Counts of the evaluated split.
        class_names: Names of the classes, background first.
        split: The evaluated split.
        seed: The recipe's seed.
        matching: Which class each label stands for (``majority``, ``identity``, ``object_matching``); None: matched one to one on the
            pixels of the evaluated split.
        matching_words: The matching in words, where ``matching.words`` does not say enough.
        labels_used: Other uses of ground truth, such as the plugins' ``uses_labels``.
        dense_crf: Whether a dense CRF refined the predictions.
        checkpoint: Which state of the model was evaluated. Any but ``last`` was chosen on the evaluated split, which is noted as a use of
            ground truth.

    Raises:
        DataError: The split has no labelled pixel.
        ValueError: The arguments do not belong together.
    """
    _check(confusion, class_names, split)
    matched = match(confusion) if matching is None else matching.on(confusion)
    where = None if matched.rule == "identity" else matched.split or split
    used = [*labels_used]
    used += [] if where is None else [f"matching clusters with classes (split {where})"]
    used += [] if checkpoint.startswith(LAST) else [f"choosing the checkpoint (split {split})"]
    ious = class_ious(confusion, matched)
    present = [iou for iou in ious if iou is not None]
    return SemanticResult(
        class_names=tuple(class_names),
        iou=ious,
        miou=sum(present) / len(present),
        pixel_accuracy=matched.pixels / int(confusion.class_pixels.sum()),
        class_of_label=matched.class_of_label,
        cluster_of_class=matched.cluster_of_class,
        counts=tuple(tuple(int(n) for n in row) for row in confusion.counts),
        unpredicted=tuple(int(n) for n in confusion.unpredicted),
        protocol=EvaluationProtocol(
            split=split,
            images=confusion.images,
            matching=matching_words or matched.words(split),
            ground_truth=(*used, f"scoring (split {split})"),
            seed=seed,
            checkpoint=checkpoint,
            dense_crf=dense_crf,
            matching_rule=matched.rule,
            matching_unit=matched.unit,
            matching_split=where,
            without_truth=confusion.without_truth,
        ),
    )


def class_ious(confusion: Confusion, matching: Matching) -> tuple[float | None, ...]:
    """Returns the IoU of each class with all the labels that stand for it, taken together, pooled over the split.

    A class that the truth has not is None (it is no part of the mean; other code counts it as 0); a class without a label is 0.
    """
    of_class = pooled(confusion.counts, matching.class_of_label)[:-1]
    true, shared = confusion.class_pixels, np.diagonal(of_class)
    union = true + of_class.sum(axis=1) - shared
    return tuple(int(s) / int(u) if t else None for s, u, t in zip(shared, union, true, strict=True))


def pooled(counts: Counts, class_of_label: Sequence[int | None]) -> Counts:
    """Sums confusion counts (C+1, K) over the labels of each class: int64 (K+1, K), the last row = labels without a class."""
    classes = counts.shape[1]
    summed = np.zeros((classes + 1, classes), np.int64)
    np.add.at(summed, [classes if true is None else true for true in class_of_label], counts)
    return summed


def _check(confusion: Confusion, class_names: Sequence[str], split: str) -> None:
    if len(class_names) != confusion.classes:
        raise ValueError(f"{len(class_names)} class names for {confusion.classes} classes")
    if not confusion.images:
        raise DataError(
            f"split {split}: none of its {confusion.without_truth} images has a label map as ground truth",
            hint="set `evaluate: []`, or mend data.eval",
        )
    if not confusion.class_pixels.any():
        raise DataError(
            f"split {split}: the ground truth of its {confusion.images} images has no labelled pixel",
            hint="check data.eval in the recipe",
        )


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _listed(item) for name, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _tupled(value: Any) -> Any:
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value
