"""What has been sent of a run: ``runs/<id>/mlflow.json``, and the journal that the rest is read from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mdp_mlflow.names import redact

STATE, LOCK, LOG = "mlflow.json", ".mlflow.lock", "logs/mlflow.log"
JOURNAL = "events.jsonl"
FINISHED = "run-finished"


@dataclass
class State:
    """How far the sending of one run has got.

    Attributes:
        settings: The observer's settings, JSON-ready.
        uri: The tracking store, without secrets.
        experiment_id, run_id: The run in MLflow; empty until it is known to be there.
        children: Step id → its run in MLflow.
        position: Bytes of the journal that are sent; half-sent events are sent again, which changes nothing.
        journal_sent: The whole journal and the run's files are sent; complete: so is the model.
        model: Address of the segmenter as an MLflow model.
        error: What went wrong last, without secrets.
        metrics, files: How many were sent.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    uri: str = ""
    experiment_id: str = ""
    run_id: str = ""
    children: dict[str, str] = field(default_factory=dict)
    position: int = 0
    journal_sent: bool = False
    complete: bool = False
    model: str = ""
    error: str = ""
    metrics: int = 0
    files: int = 0

    @classmethod
    def read(cls, folder: Path) -> State | None:
        """Returns the state of a run's folder, or None where there is none that can be read."""
        try:
            content = json.loads((folder / STATE).read_text(encoding="utf-8"))
            return cls(**{f.name: content[f.name] for f in fields(cls) if f.name in content})
        except (OSError, ValueError, TypeError):
            return None

    def save(self, folder: Path) -> None:
        """Writes the state, whole or not at all."""
        temporary = folder / f".{STATE}.{os.getpid()}.tmp"
        temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        temporary.replace(folder / STATE)

    @property
    def page(self) -> str:
        """Where to look at the run: a page of the server, or for a file how to start one."""
        if self.uri.startswith(("http://", "https://")) and self.run_id:
            return f"{self.uri.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{self.run_id}"
        return f"mlflow ui --backend-store-uri {self.uri}" if self.uri else ""


def events(folder: Path, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (position after it in bytes, event) of a run's journal from byte ``start`` on; a line being written is left."""
    try:
        file = (folder / JOURNAL).open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return
            start += len(line)
            try:
                yield start, json.loads(line)
            except ValueError:  # cut off by a crash of the machine
                continue


def journal_size(folder: Path) -> int:
    """Returns the size of the journal in bytes."""
    try:
        return (folder / JOURNAL).stat().st_size
    except FileNotFoundError:
        return 0


def run_is_over(folder: Path) -> bool:
    """Tells whether the journal has its last event."""
    try:
        with (folder / JOURNAL).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - (1 << 20)))
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return False
    return any(line.endswith(b"\n") and line.startswith(b'{"event": "run-finished"') for line in lines[-1:])


def read_record(folder: Path) -> dict[str, Any]:
    """Returns the run's record, or nothing where it cannot be read."""
    try:
        content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def describe(error: BaseException) -> str:
    """Returns an error in one line, without secrets."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return redact(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)[:500]
