"""Finished runs for tests of the paper's tables, written to disk as the engine leaves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdp_core.data.label_map import LabelMap
from mdp_core.data.storage import write_json
from mdp_core.engine.record import RunRecord, StepRecord
from mdp_core.evaluation.confusion import Confusion
from mdp_core.evaluation.instance_result import NUMBERS, SETTINGS, InstanceProtocol, InstanceResult, InstanceScores
from mdp_core.evaluation.matching import identity, match
from mdp_core.evaluation.semantic import SemanticResult, evaluate

VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
DINO = {"weights": "timm:vit_small_patch16_224.dino sha256:" + "ab" * 32}
MOCO = {"backbone weights": "file:/weights/moco_v2_800ep.pth sha256:" + "cd" * 32}

PASCAL: dict[str, dict[str, Any]] = {
    "prior": {"use": "affinity", "topk": 0.4, "notes": DINO},
    "clusterer": {"use": "k", "after": "prior", "clusters": 20, "embed": {"view": "crop"}, "notes": DINO},
    "detector": {"use": "rcnn", "after": "clusterer", "fit": {"iters": 9}, "notes": MOCO},
    "refiner": {"use": "keep", "after": "detector", "threshold": 0.9},
    "segmenter": {"use": "net", "after": "refiner", "fit": {"hard_pixels": 0.2}, "notes": MOCO},
}
"""The stages of pascal: kind (the id unless given), plugin, the stage behind it, settings, and what its step noted."""
CRF: dict[str, dict[str, Any]] = {
    "crf": {"kind": "refiner", "use": "crf", "after": "segmenter", "iterations": 10},
    "again": {"kind": "segmenter", "use": "net", "after": "crf", "fit": {"hard_pixels": 0.2}, "notes": MOCO},
    "last": {"kind": "refiner", "use": "crf", "after": "again", "iterations": 10},
}
PROBE: dict[str, dict[str, Any]] = {
    "probe": {"use": "linear", "after": "segmenter", "fit": {"lr": 0.1}},
    "smooth": {"kind": "refiner", "use": "crf", "after": "probe", "iterations": 10},
}


def semantic(
    accuracy: float,
    *,
    images: int = 1449,
    names: Sequence[str] = VOC,
    seed: int = 0,
    dense_crf: bool = False,
    probe: bool = False,
    clusters: int | None = None,
) -> SemanticResult:
    """Scores of label maps that are right on this share of each class, and background elsewhere."""  # fmt: skip
    count, pixels = len(names), 1000
    confusion = Confusion(clusters=count - 1 if clusters is None else clusters, classes=count)
    truth = np.repeat(np.arange(count, dtype=np.uint8), pixels)[None]
    wrong = np.tile(np.arange(pixels) >= round(accuracy * pixels), count)[None]
    confusion.add("all", LabelMap(np.where(wrong, 0, np.minimum(truth, confusion.clusters)).astype(np.uint8)), LabelMap(truth))
    confusion.images = images
    matching = identity(confusion) if probe else match(confusion)
    words = "labels are classes" if probe else "hungarian, pixels, split val"
    return evaluate(
        confusion, names, split="val", seed=seed, matching=matching, matching_words=words, dense_crf=dense_crf,
        labels_used=["probe: learns from labels"] if probe else (),
    )  # fmt: skip


def instances(
    ap50: float, *, images: int = 2913, names: Sequence[str] = VOC, seed: int = 0, clusters: int = 20
) -> InstanceResult:
    """Scores of masks: the settings differ by a hundredth each, AP is half and AP75 a third of AP50."""

    def scores(number: int) -> InstanceScores:
        value = ap50 + 0.01 * number
        numbers = dict.fromkeys(NUMBERS, 0.0) | {"ap50": value, "ap": value / 2, "ap75": value / 3}
        return InstanceScores(**numbers, images=images, detections=9, objects=9, class_ap=(value,))

    protocol = InstanceProtocol(
        "trainval", images, "hungarian, detections, split trainval", "largest box IoU", ("scoring",), seed
    )
    settings = {name: scores(number) for number, name in enumerate(SETTINGS)}
    return InstanceResult(tuple(names[1:]), settings, tuple(range(clusters)), 9, 9, 0, 0, 0, protocol)


class PaperRuns:
    """Writes runs, and reads them again."""

    def __init__(self, home: Path) -> None:
        self.home, self.count = home, 0

    def __call__(
        self,
        stages: Mapping[str, Mapping[str, Any]],
        components: Mapping[str, SemanticResult | Mapping[str, SemanticResult]] | None = None,
        *,
        seed: int = 0,
        inst: Mapping[str, InstanceResult] | None = None,
        inst_objects: Mapping[str, InstanceResult] | None = None,
        localisation: Mapping[str, Mapping[str, float]] | None = None,
        **more: Any,
    ) -> RunRecord:
        """Writes a run.

        Args:
            stages: As ``PASCAL``.
            components: Stage → its scores, or protocol → scores.
        """
        self.count += 1
        folder = self.home / "runs" / f"20260101-{self.count:06d}-pascal-{self.count:04x}"
        folder.mkdir(parents=True)
        steps, pipeline = [], {}
        for name, stage in stages.items():
            kind, key = stage.get("kind", name), f"{self.count:04x}{name}"
            inputs = {"labels": f"{self.count:04x}{stage['after']}"} if "after" in stage else {}
            write_json(self.home / "store" / f"{kind}-make" / key / "key.json", {"inputs": inputs})
            steps.append(
                StepRecord(
                    f"{name}.make[eval]", name, kind, "make", stage["use"], "eval", key, "done", 1.0, stage.get("notes", {})
                )
            )
            settings = {k: v for k, v in stage.items() if k not in ("kind", "after", "notes")}
            pipeline[name] = {"kind": kind, "input": None, **settings}
        rows = []
        for stage, found in (components or {}).items():
            for protocol, result in (found if isinstance(found, Mapping) else {"clustering": found}).items():
                rows.append({"title": stage, "stage": stage, "protocol_name": protocol, **result.to_json()})
        results = {
            "components": rows,
            "instances": {stage: {"title": stage, **result.to_json()} for stage, result in (inst or {}).items()},
            "instances-objects": {stage: {"title": stage, **r.to_json()} for stage, r in (inst_objects or {}).items()},
            "localisation": dict(localisation or {}),
        }
        images = {
            "train": {"fingerprint": "aa", "count": 9, "split": "train"},
            "eval": {"fingerprint": "bb", "split": "val", "count": 9},
        }
        record = RunRecord(
            folder, "pascal", seed, "r.yaml", [], {"data": {"use": "x"}, "pipeline": pipeline}, {}, images=images, results=results,
            **{"steps": steps, "outputs": {s.stage: s.id for s in steps}, "status": "finished", "started": f"2026-01-01T00:00:{self.count:02d}", **more},
        )  # fmt: skip
        record.save()
        return RunRecord.read(folder)
