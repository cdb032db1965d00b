"""Evaluates one step's predictions by one protocol and writes the scores as JSON. Protocols stand in ``mdp_core.evaluation``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdp_core.data.images import ImageRecord, Images
from mdp_core.data.instances import Instances
from mdp_core.data.label_map import LabelMap
from mdp_core.data.storage import write_json
from mdp_core.engine.jobs import Job
from mdp_core.engine.store import read_json
from mdp_core.errors import StoreError
from mdp_core.evaluation.clusters import ClustersResult, ObjectCounts, object_matching
from mdp_core.evaluation.confusion import Confusion
from mdp_core.evaluation.instances import InstanceEvaluation, object_classes
from mdp_core.evaluation.localisation import Localisation
from mdp_core.evaluation.matching import Matching, identity, majority
from mdp_core.evaluation.semantic import evaluate as score
from mdp_core.stages.base import Listener
from mdp_core.stages.dataset import Dataset, DatasetConfig

RESULT = "scores.json"
Scores = dict[str, Any] | None


@dataclass(frozen=True)
class Evaluation:
    """One protocol on one step's predictions.

    Attributes:
        job: Its ``step`` names the protocol, its ``facts`` say what the result repeats: split, seed, labels used …
        objects: Result of the protocol ``clusters``, for ``clustering-objects``.
    """

    job: Job
    dataset: Dataset[DatasetConfig]
    images: Images
    predictions: Sequence[Instances] | Sequence[LabelMap]
    listener: Listener
    objects: Path | None = None

    def write(self, folder: Path) -> None:
        """Writes ``scores.json`` into ``folder``; JSON ``null`` where the truth has nothing that the protocol compares with.

        Raises:
            DataError: No image of the split has ground truth, or its ground truth does not fit its image.
        """
        protocols: Mapping[str, Callable[[], Scores]] = {
            "clustering": self.label_maps,
            "clustering-objects": self.label_maps,
            "clustering-majority": self.label_maps,
            "probe": self.label_maps,
            "clusters": self.clusters,
            "instances": self.instances,
            "instances-objects": self.instances,
            "localisation": self.localisation,
        }
        write_json(folder / RESULT, protocols[self.job.step]())

    @property
    def split(self) -> str:
        """The split that is evaluated."""
        return str(self.job.facts["split"])

    @property
    def seed(self) -> int:
        """The recipe's seed."""
        return int(self.job.facts["seed"])

    @property
    def labels_used(self) -> list[str]:
        """What labels stand behind the predictions, in words."""
        return [f"{stage}: {what}" for stage, what in self.job.facts["labels_used"].items()]

    def images_with_predictions(self) -> Iterator[tuple[ImageRecord, Instances | LabelMap]]:
        """Yields the images one after the other, telling of progress."""
        for index, record in enumerate(self.images.records):
            yield record, self.predictions[index]
            self.listener.progress(index + 1, len(self.images), {})

    def masks(self) -> Iterator[tuple[ImageRecord, Instances]]:
        """Yields the images with their masks."""
        for record, found in self.images_with_predictions():
            if isinstance(found, Instances):
                yield record, found

    def label_maps(self) -> Scores:
        """Scores label maps with the matching that the protocol names."""
        classes = len(self.dataset.class_names)
        confusion = Confusion(classes - 1 if self.job.step == "probe" else self.job.clusters, classes)
        for record, found in self.images_with_predictions():
            prediction = LabelMap.paint(found) if isinstance(found, Instances) else found
            confusion.add(record.id, prediction, self.dataset.label_map(record))
        facts = self.job.facts
        used, matching = self.labels_used, self._matching(confusion)
        result = score(
            confusion, self.dataset.class_names, split=self.split, seed=self.seed, matching=matching, labels_used=used,
            dense_crf=bool(facts["dense_crf"]), checkpoint=str(facts["checkpoint"]),
        )  # fmt: skip
        return result.to_json()

    def _matching(self, confusion: Confusion) -> Matching | None:
        if self.job.step == "clustering-objects":
            return object_matching(self._clusters_result())
        return {"probe": identity, "clustering-majority": majority}.get(self.job.step, lambda _: None)(confusion)

    def _clusters_result(self) -> ClustersResult:
        content = read_json(self.objects / RESULT) if self.objects is not None else None
        if content is None:
            raise StoreError(f"{self.objects}: the matching on objects cannot be read", hint="run the same command again")
        return ClustersResult.from_json(content)

    def clusters(self) -> Scores:
        """Scores the clustering of masks itself, by true boxes, or by class maps where no image has boxes."""
        counts = ObjectCounts(self.job.clusters, self.dataset.class_names)
        by_boxes = any(self.dataset.boxes(record) is not None for record in self.images.records)
        for record, found in self.masks():
            if by_boxes:
                counts.add(record.id, found, self.dataset.boxes(record))
            else:
                counts.add_pixels(record.id, found, self.dataset.label_map(record))
        return counts.result(split=self.split, seed=self.seed, labels_used=self.labels_used).to_json()

    def instances(self) -> Scores:
        """Scores masks as COCO does, in the paper's four settings."""
        evaluation = InstanceEvaluation(self.dataset.class_names, self.job.clusters)
        for record, found in self.masks():
            truth = self.dataset.instances(record)
            if truth is not None:
                evaluation.add(record.id, found, truth, self.dataset.crowds(record))
        if not evaluation.images:
            return None
        facts: dict[str, Any] = {"split": self.split, "seed": self.seed, "labels_used": self.labels_used}
        if self.objects is not None:
            matching = object_matching(self._clusters_result())
            facts |= {"class_of_cluster": object_classes(matching.class_of_label), "matching_words": matching.words(self.split)}
        return evaluation.result(**facts).to_json()

    def localisation(self) -> Scores:
        """Scores where masks lie, without classes."""
        localisation = Localisation()
        for record, found in self.masks():
            truth = self.dataset.instances(record)
            if truth is not None:
                localisation.add(record.id, found, truth)
        result = localisation.result()
        return None if result is None else result.to_json()
