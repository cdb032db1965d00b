"""The files of a run that go into its tracking: tables, pictures, the record, the logs of what went wrong."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mdp_mlflow.names import redact

LARGEST = 32 * 1024 * 1024
"""Bytes; larger files (masks of a hundred thousand images) stay in the run's folder alone."""
_END_OF_LOG = 1024 * 1024
_TEXT = frozenset({".json", ".jsonl", ".md", ".csv", ".txt", ".log", ".yaml", ".diff"})


def gather(folder: Path, record: Mapping[str, Any], files: Sequence[str], target: Path) -> int:
    """Copies what is worth keeping into an empty folder, texts without secrets.

    Args:
        folder: The run's folder.
        record: Its run.json.
        files: Files that the run named as worth keeping, relative to its folder.
        target: Where to.

    Returns:
        How many files there are.
    """
    for name in dict.fromkeys(("run.json", *files)):
        source = folder / name
        if source.is_file() and source.stat().st_size <= LARGEST:
            _copy(source, target / name)
    _write(target / "recipe.resolved.json", json.dumps(record.get("resolved", {}), indent=1) + "\n")
    _write(target / "steps.csv", steps_table(record.get("steps", ())))
    freeze = record.get("environment", {}).get("freeze")
    if freeze:
        _write(target / "requirements.txt", freeze if isinstance(freeze, str) else "\n".join(map(str, freeze)) + "\n")
    if record.get("status") != "finished":
        for log in sorted((folder / "logs").glob("*.log")):
            if log.name != "mlflow.log":
                _write(target / "logs" / log.name, _end_of(log))
    return sum(1 for file in target.rglob("*") if file.is_file())


def steps_table(steps: Sequence[Mapping[str, Any]]) -> str:
    """Returns the steps of a run with their timings as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("step", "plugin", "status", "seconds", "key"))
    writer.writerows([[step.get(name, "") for name in ("id", "plugin", "status", "seconds", "key")] for step in steps])
    return buffer.getvalue()


def _copy(source: Path, target: Path) -> None:
    if source.suffix in _TEXT:
        _write(target, source.read_text(encoding="utf-8", errors="replace"))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(redact(text), encoding="utf-8")


def _end_of(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _END_OF_LOG))
        return file.read().decode("utf-8", errors="replace")
