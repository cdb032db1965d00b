"""What the ``instances`` protocol returns: AP and AR in each setting, how clusters became classes, and the protocol in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mdp_core.errors import DataError

FORMAT = 1

SETTINGS = {
    "multi.agnostic": "multi-object, class-agnostic",
    "multi.aware": "multi-object, class-aware",
    "single.agnostic": "single-object, class-agnostic",
    "single.aware": "single-object, class-aware",
    "single_strict.agnostic": "single-object, misses counted, class-agnostic",
    "single_strict.aware": "single-object, misses counted, class-aware",
}
"""Name of each setting → the name for people. The first four are the paper's."""

NUMBERS = ("ap50", "ap", "ap75", "box_ap50", "box_ap", "ar100")
"""Scores of a setting, in the order of the paper's tables."""


@dataclass(frozen=True)
class InstanceScores:
    """Scores in one setting, in [0, 1]; None where the setting has no true object.

    Attributes:
        ap: COCO's mask AP, mean over the IoUs 0.50:0.05:0.95; ap50, ap75: at one IoU.
        box_ap: The same with the IoU of boxes; box_ap50: at IoU 0.5.
        ar100: Average recall of masks with 100 detections an image (and class).
        images: Images of the setting; detections: detections that count; objects: true objects to be found, crowd regions not counted.
        class_ap: Mask AP of each object class; None = the truth has none of the class. One number where classes are disregarded.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    box_ap: float | None
    box_ap50: float | None
    ar100: float | None
    images: int
    detections: int
    objects: int
    class_ap: tuple[float | None, ...]


@dataclass(frozen=True)
class InstanceProtocol:
    """What the scores were measured on, and how; without it two scores cannot be compared.

    Attributes:
        split: The split that was evaluated; images: how many images of it.
        matching: How clusters became classes; ``"none"`` where there are no class-aware scores.
        single: The rule of the single-object setting.
        ground_truth: Each use of ground truth, in words. The last one is always the scoring itself.
        seed: The recipe's seed.
    """

    split: str
    images: int
    matching: str
    single: str
    ground_truth: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class InstanceResult:
    """Scores of one stage's masks on one split.

    Attributes:
        class_names: Names of the object classes, without background.
        settings: Name of a setting (see ``SETTINGS``) → scores. Class-aware ones are missing where nothing is clustered.
        class_of_cluster: For each cluster, the index of its object class; None = none, its masks have no part in class-aware scores.
        evidence: Detections that the matching of clusters with classes was (or could have been) made from: clustered, and right at mask
            IoU 0.5 with classes disregarded; agreeing: those of them whose cluster stands for the class of their object.
        unclustered: Detections without a cluster; they have class-agnostic scores only.
        undetected: Images with a true object and without a detection: no part of ``single``, a miss in ``single_strict``.
        objectless: Images without a true object; their detections count as wrong.
        protocol: What the scores hold for.
    """

    class_names: tuple[str, ...]
    settings: Mapping[str, InstanceScores]
    class_of_cluster: tuple[int | None, ...]
    evidence: int
    agreeing: int
    unclustered: int
    undetected: int
    objectless: int
    protocol: InstanceProtocol

    def metrics(self) -> dict[str, float]:
        """Returns flat numbers for a tracker, such as ``multi.aware.ap50``; what has no value is left out."""
        values = ((f"{name}.{number}", getattr(scores, number)) for name, scores in self.settings.items() for number in NUMBERS)
        return {name: float(value) for name, value in values if value is not None}

    def to_json(self) -> dict[str, Any]:
        """Returns the result as JSON-ready values (lists, numbers, strings, None)."""
        fields = asdict(self)
        fields["settings"] = {
            name: {**scores, "class_ap": list(scores["class_ap"])} for name, scores in fields["settings"].items()
        }
        fields["protocol"]["ground_truth"] = list(self.protocol.ground_truth)
        lists = {name: list(fields[name]) for name in ("class_names", "class_of_cluster")}
        return {"format": FORMAT, **fields, **lists}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> InstanceResult:
        """Rebuilds a result from ``to_json``.

        Raises:
            DataError: The values are not of this format.
        """
        if data.get("format") != FORMAT:
            raise DataError(
                f"an instance result of format {data.get('format')!r} cannot be read, this version reads format {FORMAT}",
                hint="evaluate the run again",
            )
        try:
            fields = {name: value for name, value in data.items() if name != "format"}
            protocol = {**data["protocol"], "ground_truth": tuple(data["protocol"]["ground_truth"])}
            settings = {
                name: InstanceScores(**{**scores, "class_ap": tuple(scores["class_ap"])})
                for name, scores in data["settings"].items()
            }
            tuples = {name: tuple(data[name]) for name in ("class_names", "class_of_cluster")}
            return cls(**{**fields, **tuples, "settings": settings, "protocol": InstanceProtocol(**protocol)})
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"this is not an instance result ({error})", hint="evaluate the run again") from error
