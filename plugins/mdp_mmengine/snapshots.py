"""Snapshots: states of a training that are kept beside the last one, each a model's folder of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import nn

__all__ = ["SnapshotHook", "Snapshots", "evenly", "gather", "snapshot_folders"]

_NAME = "snapshots"


@dataclass(frozen=True)
class Snapshots:
    """Which states of a training are kept, and how.

    Attributes:
        at: After how many iterations each; those at or beyond the end are not kept.
        write: Writes a model to an empty folder.
    """

    at: tuple[int, ...]
    write: Callable[[Path, nn.Module], None]


def evenly(count: int, total: int) -> tuple[int, ...]:
    """Returns iterations that cut a training of ``total`` iterations into ``count`` + 1 even parts; fewer where it is short."""
    return tuple(sorted({round(total * part / (count + 1)) for part in range(1, count + 1)} - {0, total}))


class SnapshotHook(Hook):
    """Writes snapshots to the work folder, each complete or not at all.

    It runs before the checkpoint of the same iteration, so that a training that resumes from a checkpoint has all
    snapshots before it; one that is made again is the same, bit for bit, and is left as it is.
    """

    priority = "VERY_LOW"

    def __init__(self, work: Path, snapshots: Snapshots) -> None:
        self.folder, self.snapshots = work / _NAME, snapshots

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Writes the snapshot where it is time."""
        iteration = runner.iter + 1
        path = self.folder / f"{iteration:08d}"
        if iteration not in self.snapshots.at or iteration == runner.max_iters or path.exists():
            return
        temporary = path.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        self.snapshots.write(temporary, runner.model.module if is_model_wrapper(runner.model) else runner.model)
        for file in [*temporary.iterdir(), temporary]:
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        temporary.rename(path)


def gather(work: Path, folder: Path) -> None:
    """Copies the snapshots of a finished training into the model's folder; those in ``work`` stay, for another attempt."""
    for name, path in _found(work / _NAME).items():
        shutil.copytree(path, folder / _NAME / name)


def snapshot_folders(folder: Path) -> dict[str, Path]:
    """Returns the snapshots in a model's folder: ``iteration N`` → a folder like that of the model itself, oldest first."""
    return {f"iteration {int(name)}": path for name, path in _found(folder / _NAME).items()}


def _found(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {path.name: path for path in sorted(folder.iterdir()) if path.name.isdigit()}
