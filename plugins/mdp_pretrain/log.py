"""The log of a training: one line of JSON an iteration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

LOG_NAME = "log.jsonl"


@dataclass(frozen=True)
class Point:
    """One line of the log."""

    iteration: int
    loss: float
    class_loss: float
    patch_loss: float
    lr: float
    momentum: float
    seconds: float
    retrieval: float | None = None


def line_of(point: Point) -> str:
    """Writes a point as one line of JSON."""
    return json.dumps({name: value for name, value in vars(point).items() if value is not None}) + "\n"


def read_log(path: Path) -> list[Point]:
    """Reads a training's log; a last line cut off by a kill is left out."""
    if not path.is_file():
        return []
    points = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            points.append(Point(**json.loads(line)))
        except (ValueError, TypeError):
            break
    return points
