"""Curves of trainings: metrics over iterations, as the store keeps them beside a fit, or as the journal of a run tells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdp_core.engine.journal import read_journal

Points = dict[str, dict[float, float]]
"""Metric → iteration → value."""


def journal_points(folder: Path) -> dict[str, Points]:
    """Returns step → curves of what a run itself trained."""
    found: dict[str, Points] = {}
    for _, event in read_journal(folder):
        if event.get("event") == "metrics":
            _add_point(found.setdefault(str(event.get("step")), {}), event)
    return found


def stored_points(path: Path) -> Points:
    """Reads the curve that a fit left in the store (``CURVE``): metric → iteration → value; the last line of an iteration counts."""
    found: Points = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            _add_point(found, json.loads(line))
        except ValueError:  # cut off
            continue
    return found


def _add_point(curves: Points, event: Mapping[str, Any]) -> None:
    for name, value in event.get("metrics", {}).items():
        if isinstance(value, (int, float)):
            curves.setdefault(str(name), {})[float(event.get("done", 0))] = float(value)


def losses_first(metric: tuple[str, Any]) -> tuple[bool, bool]:
    """Sorts the metrics of a training: losses, then the others, then what was set and not measured."""
    name = metric[0].lower()
    return "loss" not in name, name in ("lr", "learning_rate", "weight_decay", "momentum")
