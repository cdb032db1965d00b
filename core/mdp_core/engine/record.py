"""The record of a run: ``runs/<id>/run.json`` is the truth about it, rewritten whole at each event."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from mdp_core.data.storage import write_json
from mdp_core.engine.store import disk_errors, read_json
from mdp_core.errors import RunError
from mdp_core.recipe.problems import did_you_mean

RunStatus = Literal["running", "finished", "failed", "interrupted", "killed"]


def new_run_folder(home: Path, name: str) -> Path:
    """Makes the folder of a new run: its name sorts by time and is unique."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
    folder = home / "runs" / f"{stamp}-{safe}-{secrets.token_hex(2)}"
    with disk_errors(folder):
        folder.mkdir(parents=True)
    return folder


@dataclass(frozen=True)
class StepRecord:
    """One step of a run, as it ended.

    Attributes:
        id: ``prior.mine[train]``, unique in the run.
        kind, step, key: The place of its result: ``store/<kind>-<step>/<key>``.
        status: ``hit``, ``done``, ``failed`` or ``interrupted``.
        seconds: Wall time of the step; of a hit, what it took when it was done.
        images: How many images were done in these seconds; 0 where that is not known.
        peak_memory: Peak resident memory of the process that did most, in bytes; 0 where that is not known.
    """

    id: str
    stage: str
    kind: str
    step: str
    plugin: str
    role: str
    key: str
    status: str
    seconds: float
    notes: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    images: int = 0
    peak_memory: int = 0


@dataclass
class RunRecord:
    """What run.json holds.

    Attributes:
        status: Where it says ``running`` and the process is gone, a later command writes ``killed``.
        recipe: The recipe as it was named; resolved: every setting, in the shape of a recipe.
        steps: One entry a step, in the order of the plan.
        planned: Ids of all steps of the plan, done or not.
        places: The same → where the result belongs in the store (``<kind>-<step>/<key>``); nothing there is garbage.
        results: Component table and the like, JSON-ready; metrics: the same as flat name → number.
        outputs: Stage → id of the step with its final output; final_role: the role of the images these are of.
        plugin_files: One-file plugins.
        sweep: ``SWEEP-ID/NUMBER`` where a sweep made the run.
        from_run: The run that this one repeats.
    """

    folder: Path
    name: str
    seed: int
    recipe: str
    overrides: Sequence[str]
    resolved: Mapping[str, Any]
    environment: Mapping[str, Any]
    images: dict[str, Any] = field(default_factory=dict)
    status: RunStatus = "running"
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    seconds: float = 0.0
    steps: list[StepRecord] = field(default_factory=list)
    planned: Sequence[str] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    final_role: str = "train"
    labels_used: dict[str, str] = field(default_factory=dict)
    plugin_files: Sequence[str] = ()
    sweep: str | None = None
    from_run: str | None = None
    error: str | None = None
    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)

    @property
    def id(self) -> str:
        """The run's name in every table: the name of its folder."""
        return self.folder.name

    @property
    def home(self) -> Path:
        """MDP_HOME of the run."""
        return self.folder.parents[1]

    def step(self, step_id: str) -> StepRecord | None:
        """Returns the step of an id, or None where the run did not get there."""
        return next((s for s in self.steps if s.id == step_id), None)

    def save(self) -> None:
        """Writes run.json."""
        content = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("folder", "steps")}
        with disk_errors(self.folder):
            write_json(self.folder / "run.json", {"id": self.id, **content, "steps": [asdict(s) for s in self.steps]})

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Reads a run's record.

        Raises:
            RunError: There is none, or it is damaged.
        """
        content = read_json(folder / "run.json")
        if content is None:
            raise RunError(f"{folder / 'run.json'}: missing or damaged", hint="`mdp runs ls` shows the runs there are")
        try:
            known = {f.name for f in fields(cls)} - {"folder", "steps"}
            steps = [StepRecord(**s) for s in content.get("steps", ())]
            return cls(folder=folder, steps=steps, **{k: v for k, v in content.items() if k in known})
        except (TypeError, AttributeError) as error:
            raise RunError(
                f"{folder / 'run.json'}: not the record of a run of this version of mdp",
                hint="make the run again, or use the version it was made with",
            ) from error


def all_runs(home: Path) -> Iterator[RunRecord]:
    """Yields the runs of a home, oldest first; unreadable ones are left out."""
    for file in sorted((home / "runs").glob("*/run.json")):
        try:
            yield RunRecord.read(file.parent)
        except RunError:
            continue


def find_run(home: Path, reference: str) -> RunRecord:
    """Returns a run by its id, the unique beginning or end of its id, ``last``, ``last~2`` (two before the last), or its folder.

    Raises:
        RunError: No such run, or more than one; lists those that are close.
    """
    folder = Path(reference).expanduser()
    if (folder / "run.json").is_file():
        return RunRecord.read(folder.absolute())
    names = sorted(f.parent.name for f in (home / "runs").glob("*/run.json"))
    if not names:
        raise RunError(f"there are no runs in {home}", hint="start one with `mdp run`, or name another MDP_HOME with --home")
    last = re.fullmatch(r"last(?:~(\d+))?", reference)
    if last:
        back = int(last.group(1) or 0)
        if back >= len(names):
            raise RunError(f"{reference}: there are only {len(names)} runs in {home}")
        return RunRecord.read(home / "runs" / names[-1 - back])
    found = [n for n in names if n == reference] or [n for n in names if n.startswith(reference) or n.endswith(reference)]
    if len(found) == 1:
        return RunRecord.read(home / "runs" / found[0])
    if found:
        raise RunError(
            f"{reference}: {len(found)} runs are named like that: {', '.join(found[:5])}{', …' if len(found) > 5 else ''}"
        )
    raise RunError(
        f"no run {reference!r} in {home}{did_you_mean(reference, names)}", hint="`mdp runs ls` shows them; `last` is the newest"
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
