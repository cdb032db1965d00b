"""Checks of datasets, executors and observers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mdp_core.data.images import ImageRecord, read_image
from mdp_core.data.label_map import LabelMap
from mdp_core.errors import DataError, MdpError, StageError
from mdp_core.plugins.hookspecs import Hooks
from mdp_core.recipe.problems import did_you_mean
from mdp_core.stages.base import Context, Listener
from mdp_core.stages.dataset import Dataset, DatasetConfig, Source
from mdp_core.stages.executor import Task
from mdp_core.testing.registry import check
from mdp_core.testing.report import CheckFailedError, CheckSkippedError, said
from mdp_core.testing.result_checks import check_masks
from mdp_core.testing.trial import Trial

_MOST = 50
"""Images of a split that are looked at."""


def _dataset(trial: Trial) -> tuple[Dataset[Any], dict[str, list[Source]]]:
    config = trial.config
    dataset: Dataset[Any] = trial.factory(config, Context())
    splits = [config.train, config.eval] if isinstance(config, DatasetConfig) else []
    return dataset, {split: list(islice(dataset.sources(split), _MOST)) for split in splits if split is not None}


def _record(source: Source) -> ImageRecord:
    height, width = source.size or read_image(source.path or "").shape[:2]
    return ImageRecord(source.id, height, width, None if source.path is None else str(source.path))


@check("dataset")
def lists_its_images(trial: Trial) -> None:
    """Each split lists at least one image, ids are unique relative paths, and the order is the same each time: shards and keys rest on it."""
    _, splits = _dataset(trial)
    _, again = _dataset(trial)
    for split, sources in splits.items():
        if not sources:
            raise CheckFailedError(
                f"the split {split!r} has no images", "raise a DataError that says what was looked for, and where"
            )
        ids = [source.id for source in sources]
        twice = {name for name in ids if ids.count(name) > 1}
        odd = [name for name in ids if Path(name).is_absolute() or ".." in Path(name).parts or not name]
        if twice or odd:
            raise CheckFailedError(
                f"{split}: bad id {sorted(twice or odd)[0]!r}", "ids are unique in the dataset, relative paths at most"
            )
        if ids != [source.id for source in again[split]]:
            raise CheckFailedError(f"{split}: the order differs from call to call", "sort what the file system lists")
        if any(s.path is None and (s.size is None or s.content is None) for s in sources):
            raise CheckFailedError(
                f"{split}: a generated image has no size or content", "content enters the fingerprint: (seed, index, version)"
            )


@check("dataset")
def reads_its_images(trial: Trial) -> None:
    """Pixels are uint8 (H, W, 3) of the size that was announced, and the same each time: every stage reads them anew."""
    dataset, splits = _dataset(trial)
    for sources in splits.values():
        for source in sources[:5]:
            record = _record(source)
            pixels: Any = dataset.read(record)
            if pixels.dtype != np.uint8 or pixels.shape != (record.height, record.width, 3):
                raise CheckFailedError(
                    f"{source.id}: {pixels.dtype} {pixels.shape}", f"uint8 {(record.height, record.width, 3)}, RGB"
                )
            if not np.array_equal(pixels, dataset.read(record)):
                raise CheckFailedError(
                    f"{source.id}: other pixels when read again", "draw from a generator seeded by the image"
                )


@check("dataset")
def ground_truth_is_right(trial: Trial) -> None:
    """Class maps are of the image's size with values in class_names or ignore, objects' labels count from 0: scores are computed from them."""
    dataset, splits = _dataset(trial)
    names, seen = dataset.class_names, 0
    for source in [s for split in list(splits.values())[-1:] for s in split[:20]]:
        record = _record(source)
        truth, objects = dataset.label_map(record), dataset.instances(record)
        seen += truth is not None or objects is not None
        if truth is not None:
            _check_truth(source.id, truth, record, names)
        if objects is not None:
            check_masks(source.id, objects)
            wrong = [int(label) for label in objects.labels if not 0 <= label < len(names) - 1]
            if objects.size != (record.height, record.width) or wrong:
                raise CheckFailedError(
                    f"{source.id}: objects of size {objects.size}, labels {wrong}", "labels index class_names less background"
                )
    if not seen:
        raise CheckSkippedError("there is no ground truth")


def _check_truth(name: str, truth: LabelMap, record: ImageRecord, names: tuple[str, ...]) -> None:
    if truth.size != (record.height, record.width):
        raise CheckFailedError(
            f"{name}: a class map of {truth.size} for an image of {(record.height, record.width)}", "same size as the image"
        )
    wrong = [int(value) for value in np.unique(truth.values) if value >= len(names) and value != truth.ignore]
    if wrong:
        raise CheckFailedError(
            f"{name}: a pixel is {wrong[0]}, with {len(names)} class names", "values index class_names; 255 is ignore"
        )


@check("dataset")
def unknown_splits_are_named(trial: Trial) -> None:
    """A split that is not there is a DataError that names it: a typo in a recipe must not become an empty dataset or a traceback."""
    dataset, _ = _dataset(trial)
    try:
        found = list(islice(dataset.sources("no-such-split"), 1))
    except DataError as error:
        if "no-such-split" not in str(error):
            raise CheckFailedError(
                f"the error does not name the split: {error.message}", "say what was looked for, and which there are"
            ) from error
        return
    except Exception as error:
        raise CheckFailedError(f"it raised {said(error)}", "raise DataError(message, hint=…)") from error
    raise CheckFailedError(f"it listed {len(found)} images of a split that does not exist", "raise DataError(message, hint=…)")


# Executors


def do(job: str, shard: int | None, listener: Listener) -> None:
    """A small task: leaves a file ``PATH-SHARD``; one whose path ends in ``fails`` raises.

    Raises:
        StageError: The task is one that fails.
    """
    if job.endswith("fails"):
        raise StageError("this task was asked to fail")
    listener.progress(1, 1, {})
    listener.note("done", str(shard))
    Path(f"{job}-{shard}").write_text("done")


class _Ears:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, task: Task, done: int, total: int, metrics: Mapping[str, float]) -> None: ...

    def note(self, task: Task, name: str, value: str) -> None:
        self.notes.append(value)

    def warn(self, task: Task, message: str) -> None: ...


def _task(folder: Path, name: str, shard: int) -> Task:
    place = f"{__name__}:do"
    return Task(f"check.{name} {shard}", "check", str(folder / name), shard, 1, "prior:check", "cpu", False, place)


@check("executor")
def does_all_tasks(trial: Trial) -> None:
    """All tasks of a step are done when run() returns, their notes reach the listener, and close() may be called twice."""
    executor, folder, ears = trial.factory(trial.config), trial.new_folder("tasks"), _Ears()
    try:
        executor.prepare()
        executor.run([_task(folder, "part", shard) for shard in range(3)], folder / "log", ears)
    finally:
        executor.close()
        executor.close()
    missing = [shard for shard in range(3) if not (folder / f"part-{shard}").is_file()]
    if missing:
        raise CheckFailedError(f"task {missing[0]} of 3 was not done", "run() returns when all tasks are done")
    if sorted(ears.notes) != ["0", "1", "2"]:
        raise CheckFailedError(
            f"the listener heard the notes {ears.notes} of 3 tasks", "pass progress, notes and warnings on, each once"
        )


@check("executor")
def tells_of_failed_tasks(trial: Trial) -> None:
    """A task that raises an error for people makes run() raise a StageError with its text: otherwise a failed run looks finished."""
    executor, folder = trial.factory(trial.config), trial.new_folder("tasks")
    try:
        executor.run([_task(folder, "fails", 0)], folder / "log", _Ears())
    except MdpError as error:
        if "asked to fail" not in str(error):
            raise CheckFailedError(
                f"the error does not say what the task said: {error.message}", "use task.failed(error)"
            ) from error
        return
    except Exception as error:
        raise CheckFailedError(f"it raised {said(error)}", "use task.failed(error) for errors for people") from error
    finally:
        executor.close()
    raise CheckFailedError("run() returned although a task failed", "raise task.failed(error)")


# Observers


@check("observer")
def hooks_are_known(trial: Trial) -> None:
    """It implements at least one hook, and each that it marks exists with these arguments: a misspelt one would never be called."""
    known = [name for name in dir(Hooks) if name.startswith("mdp_")]
    marked = [name for name in dir(trial.factory) if hasattr(getattr(trial.factory, name, None), "mdp_impl")]
    forgotten = [name for name in dir(trial.factory) if name.startswith("mdp_") and name not in marked]
    if forgotten:
        raise CheckFailedError(f"{forgotten[0]} is not marked", "put @hookimpl above it")
    for name in marked:
        if name not in known:
            raise CheckFailedError(f"there is no hook {name}{did_you_mean(name, known)}", f"hooks: {', '.join(known)}")
        strange = set(inspect.signature(getattr(trial.factory, name)).parameters) - set(
            inspect.signature(getattr(Hooks, name)).parameters
        )
        if strange:
            raise CheckFailedError(
                f"{name} has an argument {sorted(strange)[0]}", f"it is given {inspect.signature(getattr(Hooks, name))}"
            )
    if not marked:
        raise CheckFailedError("it implements no hook", "mark methods with @hookimpl, for example mdp_run_finished")
