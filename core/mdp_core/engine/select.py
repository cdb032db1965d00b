"""Choosing a checkpoint by labels, as the authors' code does: off by default, and named in every table where it is on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from mdp_core.data.images import Images
from mdp_core.data.label_map import LabelMap
from mdp_core.data.storage import write_json
from mdp_core.engine.store import read_json
from mdp_core.errors import StageError, StoreError
from mdp_core.stages.base import Listener
from mdp_core.stages.dataset import Dataset, DatasetConfig

CHOICE = "choice.json"


class TrueLabelMaps(Sequence[LabelMap | None]):
    """The true class maps of images; each is read when asked for."""

    def __init__(self, dataset: Dataset[DatasetConfig], images: Images) -> None:
        self._dataset, self._images = dataset, images

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> LabelMap | None: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LabelMap | None]: ...
    def __getitem__(self, index: int | slice) -> LabelMap | Sequence[LabelMap | None] | None:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._dataset.label_map(self._images.records[index])


def select(
    segmenter: Any,
    model: Path,
    images: Images,
    truth: Sequence[LabelMap | None],
    clusters: int,
    classes: int,
    folder: Path,
    listener: Listener,
) -> None:
    """Writes ``choice.json``: the state of the training with the best mIoU on ``images``, clusters matched on their pixels.

    Args:
        segmenter: The segmenter; its ``snapshots(model)`` are compared, and ``model`` itself, the last state.
        model: What its ``fit`` left.
        images: Images with ground truth.
        truth: Their class maps.
        clusters: Number of clusters.
        classes: Number of true classes, background included.
        folder: Takes the choice.
        listener: Told of progress.

    Raises:
        StageError: Images have no ground truth.
    """
    from mdp_core.evaluation.confusion import Confusion
    from mdp_core.evaluation.matching import match
    from mdp_core.evaluation.semantic import class_ious

    states = {**segmenter.snapshots(model), "last": model}
    scores: dict[str, float] = {}
    for number, (name, state) in enumerate(states.items()):
        confusion = Confusion(clusters, classes)
        for index, prediction in enumerate(_predictions(segmenter, state, images)):
            true = truth[index]
            if true is not None:
                confusion.add(images.records[index].id, prediction, true)
            listener.progress(number * len(images) + index + 1, len(states) * len(images), {})
        present = [iou for iou in class_ious(confusion, match(confusion)) if iou is not None]
        if not present:
            raise StageError("no checkpoint can be chosen: no image of the split has a class map", hint="set checkpoint: last")
        scores[name] = sum(present) / len(present)
    best = max(reversed(states), key=lambda name: scores[name])  # of equals the latest
    listener.note("checkpoint", f"{best} of {len(states)}, by labels")
    write_json(folder / CHOICE, {"state": best, "folder": states[best].relative_to(model).as_posix(), "miou": scores})


def _predictions(segmenter: Any, state: Path, images: Images) -> Iterator[LabelMap]:
    found: Iterator[LabelMap] = segmenter.predict(state, images)
    return found


def chosen(folder: Path) -> str:
    """Returns where the chosen state lies, relative to what the training left.

    Raises:
        StoreError: The choice cannot be read.
    """
    content = read_json(folder / CHOICE)
    if content is None:
        raise StoreError(
            f"{folder / CHOICE}: cannot be read", hint="run the same command again; `mdp cache verify` finds damage"
        )
    return str(content["folder"])
