"""The record of a run: ``runs/<id>/run.json`` is the truth about it, rewritten whole at each event."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mdp_core.data.storage import write_json
from mdp_core.engine.store import disk_errors, read_json


def new_run_folder(home: Path, name: str) -> Path:
    """Makes the folder of a new run: its name sorts by time and is unique."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
    folder = home / "runs" / f"{stamp}-{safe}-{secrets.token_hex(2)}"
    with disk_errors(folder):
        folder.mkdir(parents=True)
    return folder


@dataclass
class RunRecord:
    """What run.json holds.

    Attributes:
        status: ``running``, ``finished``, ``failed``, ``interrupted`` or, found out by a later run, ``killed``.
        steps: One entry a step, in the order of the plan.
        results: Component table and the like, JSON-ready.
    """

    folder: Path
    name: str
    seed: int
    recipe: str
    overrides: Sequence[str]
    resolved: Mapping[str, Any]
    environment: Mapping[str, Any]
    images: dict[str, Any] = field(default_factory=dict)
    status: str = "running"
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    seconds: float = 0.0
    steps: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    labels_used: dict[str, str] = field(default_factory=dict)
    error: str | None = None

    @property
    def id(self) -> str:
        """The run's name in every table: the name of its folder."""
        return self.folder.name

    def save(self) -> None:
        """Writes run.json."""
        content = {name: value for name, value in vars(self).items() if name != "folder"}
        with disk_errors(self.folder):
            write_json(
                self.folder / "run.json", {"id": self.id, "host": socket.gethostname(), "process": os.getpid(), **content}
            )


def mark_killed_runs(home: Path) -> None:
    """Corrects the records of this machine's runs that say ``running`` and whose process is gone."""
    for file in (home / "runs").glob("*/run.json"):
        content = read_json(file)
        if content is None or content.get("status") != "running" or content.get("host") != socket.gethostname():
            continue
        try:
            os.kill(int(content["process"]), 0)
        except ProcessLookupError:
            with disk_errors(file):
                write_json(file, {**content, "status": "killed"})
        except PermissionError:
            pass
