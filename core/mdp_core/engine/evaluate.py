"""Evaluates one step's predictions on the eval images and writes the scores as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdp_core.data.images import Images
from mdp_core.data.instances import Instances
from mdp_core.data.label_map import LabelMap
from mdp_core.data.storage import write_json
from mdp_core.engine.jobs import Job
from mdp_core.errors import DataError
from mdp_core.evaluation.confusion import Confusion
from mdp_core.evaluation.localisation import Localisation
from mdp_core.evaluation.semantic import evaluate as score
from mdp_core.stages.base import Listener
from mdp_core.stages.dataset import Dataset, DatasetConfig

RESULT = "scores.json"


def evaluate(
    job: Job,
    dataset: Dataset[DatasetConfig],
    images: Images,
    predictions: Sequence[Instances] | Sequence[LabelMap],
    folder: Path,
    listener: Listener,
) -> None:
    """Writes ``scores.json`` of protocol ``job.step`` into ``folder``; JSON ``null`` where the truth has no instances.

    Raises:
        DataError: No image of the split has ground truth, or a size does not fit.
    """
    if job.step == "localisation":
        result = _localisation(dataset, images, predictions, listener)
    else:
        result = _clustering(job, dataset, images, predictions, listener)
    write_json(folder / RESULT, result)


def _clustering(
    job: Job,
    dataset: Dataset[DatasetConfig],
    images: Images,
    predictions: Sequence[Instances] | Sequence[LabelMap],
    listener: Listener,
) -> dict[str, Any]:
    confusion = Confusion(int(job.facts["clusters"]), len(dataset.class_names))
    for index, record in enumerate(images.records):
        truth = dataset.label_map(record)
        if truth is not None:
            found = predictions[index]
            label_map = LabelMap.paint(found) if isinstance(found, Instances) else found
            confusion.add(record.id, label_map, truth)
        listener.progress(index + 1, len(images), {})
    if not confusion.images:
        raise DataError(
            f"no image of split {job.facts['split']!r} has a label map", hint="set `evaluate: []`, or mend data.eval"
        )
    used = [f"{stage}: {what}" for stage, what in job.facts["labels_used"].items()]
    result = score(confusion, dataset.class_names, split=job.facts["split"], seed=job.facts["seed"], labels_used=used)
    return result.to_json()


def _localisation(
    dataset: Dataset[DatasetConfig],
    images: Images,
    predictions: Sequence[Instances] | Sequence[LabelMap],
    listener: Listener,
) -> dict[str, Any] | None:
    localisation = Localisation()
    for index, record in enumerate(images.records):
        truth, found = dataset.instances(record), predictions[index]
        if truth is not None and isinstance(found, Instances):
            localisation.add(record.id, found, truth)
        listener.progress(index + 1, len(images), {})
    result = localisation.result()
    return None if result is None else result.to_json()
