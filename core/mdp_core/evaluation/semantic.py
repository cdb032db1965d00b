"""Semantic segmentation scores of a split: IoU per class, mIoU and pixel accuracy, with the protocol that they hold for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mdp_core.errors import DataError
from mdp_core.evaluation.confusion import Confusion
from mdp_core.evaluation.matching import Matching, match

FORMAT = 1


@dataclass(frozen=True)
class EvaluationProtocol:
    """What a score was measured on, and how; without it two scores cannot be compared.

    Attributes:
        split: The split that was evaluated; images: how many images of it.
        matching: How clusters became classes, for example ``"hungarian, pixels, split val"``.
        ground_truth: Each use of ground truth, in words. The last one is always the scoring itself.
        seed: The recipe's seed.
        checkpoint: Which state of a trained model was evaluated; ``"last"`` = none was chosen by its score.
        dense_crf: Whether a dense CRF refined the predictions.
        background_included: Whether background counts in the mIoU.
    """

    split: str
    images: int
    matching: str
    ground_truth: tuple[str, ...]
    seed: int
    checkpoint: str = "last"
    dense_crf: bool = False
    background_included: bool = True


@dataclass(frozen=True)
class SemanticResult:
    """Scores of one stage's label maps on one split. All shares are in [0, 1].

    Attributes:
        class_names: Names of the K classes, background first.
        iou: IoU per class; None where the truth has no pixel of the class, 0 where the class got no label.
        miou: Mean of ``iou`` over the classes that the truth has. Counts are pooled over the split first, so it is not a mean over images.
        pixel_accuracy: Share of labelled pixels whose predicted label stands for their class.
        cluster_of_class: Predicted label per class (0 = predicted background); None = none.
        counts: Confusion counts: counts[label][class] in pixels, C+1 rows of K.
        unpredicted: Pixels per class for which the prediction said ignore; they count as wrong.
        protocol: What the scores hold for.
    """

    class_names: tuple[str, ...]
    iou: tuple[float | None, ...]
    miou: float
    pixel_accuracy: float
    cluster_of_class: tuple[int | None, ...]
    counts: tuple[tuple[int, ...], ...]
    unpredicted: tuple[int, ...]
    protocol: EvaluationProtocol

    @property
    def class_pixels(self) -> tuple[int, ...]:
        """Labelled pixels of each class in the truth."""
        return tuple(sum(column) + rest for *column, rest in zip(*self.counts, self.unpredicted, strict=True))

    def metrics(self) -> dict[str, float]:
        """Returns flat numbers for a tracker: ``miou``, ``pixel_accuracy`` and ``iou/<class>`` of the classes present."""
        per_class = {f"iou/{name}": iou for name, iou in zip(self.class_names, self.iou, strict=True) if iou is not None}
        return {"miou": self.miou, "pixel_accuracy": self.pixel_accuracy, **per_class}

    def to_json(self) -> dict[str, Any]:
        """Returns the result as JSON-ready values (lists, numbers, strings, None)."""
        return {"format": FORMAT, **{name: _listed(value) for name, value in asdict(self).items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SemanticResult:
        """Rebuilds a result from ``to_json``.

        Raises:
            DataError: The values are not of this format.
        """
        if data.get("format") != FORMAT:
            raise DataError(
                f"a semantic result of format {data.get('format')!r} cannot be read, this version reads format {FORMAT}",
                hint="evaluate the run again",
            )
        try:
            fields = {name: _tupled(value) for name, value in data.items() if name not in ("format", "protocol")}
            protocol = {name: _tupled(value) for name, value in data["protocol"].items()}
            return cls(**fields, protocol=EvaluationProtocol(**protocol))
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"this is not a semantic result ({error})", hint="evaluate the run again") from error


def evaluate(
    confusion: Confusion,
    class_names: Sequence[str],
    *,
    split: str,
    seed: int,
    matching: Matching | None = None,
    matching_split: str | None = None,
    labels_used: Sequence[str] = (),
    dense_crf: bool = False,
    checkpoint: str = "last",
) -> SemanticResult:
    """Scores the label maps of one stage.

    Args:
        confusion: Counts of the evaluated split.
        class_names: Names of the classes, background first.
        split: The evaluated split.
        seed: The recipe's seed.
        matching: Labels and classes matched beforehand on ``matching_split``; None: matched on the evaluated split.
        matching_split: Where ``matching`` comes from; needed with it.
        labels_used: Other uses of ground truth, such as the plugins' ``uses_labels``.
        dense_crf: Whether a dense CRF refined the predictions.
        checkpoint: Which state of the model was evaluated.

    Raises:
        DataError: The split has no labelled pixel.
        ValueError: The arguments do not belong together.
    """
    if (matching is None) != (matching_split is None):
        raise ValueError("a matching and the split it was made on come together")
    matched, where = matching or match(confusion), matching_split or split
    _check(confusion, class_names, matched, split)
    ious = class_ious(confusion, matched)
    present = [iou for iou in ious if iou is not None]
    return SemanticResult(
        class_names=tuple(class_names),
        iou=ious,
        miou=sum(present) / len(present),
        pixel_accuracy=_correct(confusion, matched) / int(confusion.class_pixels.sum()),
        cluster_of_class=matched.cluster_of_class,
        counts=tuple(tuple(int(n) for n in row) for row in confusion.counts),
        unpredicted=tuple(int(n) for n in confusion.unpredicted),
        protocol=EvaluationProtocol(
            split=split,
            images=confusion.images,
            matching=f"hungarian, pixels, split {where}",
            ground_truth=(*labels_used, f"matching clusters with classes (split {where})", f"scoring (split {split})"),
            seed=seed,
            checkpoint=checkpoint,
            dense_crf=dense_crf,
        ),
    )


def class_ious(confusion: Confusion, matching: Matching) -> tuple[float | None, ...]:
    """Returns the IoU of each class with its label, pooled over the split.

    A class that the truth has not is None (it is no part of the mean; other code counts it as 0); a class without a label is 0.
    """
    true_pixels, predicted_pixels = confusion.class_pixels, confusion.counts.sum(axis=1)
    ious: list[float | None] = []
    for true, cluster in enumerate(matching.cluster_of_class):
        if not true_pixels[true]:
            ious.append(None)
        elif cluster is None:
            ious.append(0.0)
        else:
            shared = int(confusion.counts[cluster, true])
            ious.append(shared / int(true_pixels[true] + predicted_pixels[cluster] - shared))
    return tuple(ious)


def _check(confusion: Confusion, class_names: Sequence[str], matching: Matching, split: str) -> None:
    if len(class_names) != confusion.classes:
        raise ValueError(f"{len(class_names)} class names for {confusion.classes} classes")
    if len(matching.cluster_of_class) != confusion.classes:
        raise ValueError(f"a matching of {len(matching.cluster_of_class)} classes for {confusion.classes} classes")
    if not confusion.class_pixels.any():
        raise DataError(
            f"split {split}: the ground truth of its {confusion.images} images has no labelled pixel",
            hint="check data.eval in the recipe",
        )


def _correct(confusion: Confusion, matching: Matching) -> int:
    pairs = enumerate(matching.cluster_of_class)
    return sum(int(confusion.counts[cluster, true]) for true, cluster in pairs if cluster is not None)


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _listed(item) for name, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _tupled(value: Any) -> Any:
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value
