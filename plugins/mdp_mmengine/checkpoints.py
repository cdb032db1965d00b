"""Resume files: small, loadable with ``weights_only=True``, and never half written under a name that is looked for."""

from __future__ import annotations

import os
import pickle
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["Checkpoint", "newest", "save"]

_NAME = re.compile(r"iter_(\d+)\.pt")
_KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """All that a training needs to go on as if nothing had happened.

    Attributes:
        iteration: Iterations done.
        model: The model's state dict.
        optimizer: State of MMEngine's optimizer wrapper (with the loss scaler under fp16).
        schedulers: States of the parameter schedulers.
    """

    iteration: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    schedulers: list[dict[str, Any]]


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint (temporary name, fsync, rename, fsync of the folder) and keeps the last two."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"iter_{checkpoint.iteration:08d}.pt"
    temporary = path.with_suffix(".pt.tmp")
    with temporary.open("wb") as file:
        torch.save(vars(checkpoint), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    for old in [*_found(folder)[_KEEP:], *folder.glob("iter_*.tmp")]:
        old.unlink(missing_ok=True)


def newest(folder: Path) -> Checkpoint | None:
    """Reads the newest intact checkpoint, on the CPU; None where there is none. A damaged one is skipped with a warning."""
    for path in _found(folder):
        try:
            return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
        except (RuntimeError, OSError, EOFError, ValueError, TypeError, pickle.UnpicklingError) as error:
            warnings.warn(f"{path}: damaged checkpoint left out ({error})", stacklevel=2)
    return None


def _found(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    numbered = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(numbered, reverse=True)]
