"""The journal of a run: every event of it, one line of JSON each, in ``runs/<id>/events.jsonl``.

Trackers read it, while the run goes on or long after (``mdp track sync``), so a server that is down loses nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from mdp_core.plugins.hookspecs import RunInfo, RunOutcome, StepInfo, StepResult, hookimpl

JOURNAL = "events.jsonl"


class Journal:
    """An observer that writes the journal.

    Each line has ``event`` (``run-started``, ``step-started``, ``metrics``, ``step-finished``, ``run-finished``), ``time``
    (seconds since 1970), and: ``run`` (a ``RunInfo``), ``step`` (a ``StepInfo``), ``result`` (a ``StepResult``), ``outcome``
    (a ``RunOutcome``), or, of ``metrics``, the step's id, ``done``, ``total`` and ``metrics``.
    """

    def __init__(self) -> None:
        self._file: IO[str] | None = None

    @hookimpl
    def mdp_run_started(self, run: RunInfo) -> None:
        """Opens the journal."""
        self._file = (run.folder / JOURNAL).open("a", encoding="utf-8")
        self._write("run-started", run=asdict(run))

    @hookimpl
    def mdp_step_started(self, step: StepInfo) -> None:
        """Notes that a step begins."""
        self._write("step-started", step=asdict(step))

    @hookimpl
    def mdp_step_progress(self, step: StepInfo, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Notes metrics; bare progress is for displays."""
        if metrics:
            self._write("metrics", step=step.id, done=done, total=total, metrics=dict(metrics))

    @hookimpl
    def mdp_step_finished(self, step: StepInfo, result: StepResult) -> None:
        """Notes how a step ended."""
        self._write("step-finished", step=asdict(step), result=asdict(result))

    @hookimpl
    def mdp_run_finished(self, outcome: RunOutcome) -> None:
        """Notes how the run ended, and closes the journal."""
        self._write("run-finished", outcome=asdict(outcome))
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, event: str, **values: Any) -> None:
        if self._file is not None:
            line = json.dumps({"event": event, "time": round(time.time(), 3), **values}, default=str)
            self._file.write(line + "\n")
            self._file.flush()


def read_journal(folder: Path, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (position after the line in bytes, event) of a run's journal from byte ``start`` on; a line still being written is left."""
    path = folder / JOURNAL
    if not path.is_file():
        return
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return
            start += len(line)
            try:
                yield start, json.loads(line)
            except json.JSONDecodeError:  # cut off by a crash of the machine
                continue
