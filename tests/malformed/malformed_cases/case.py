"""One mistake: the files, the command, and what comes of it."""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from malformed_cases.server import HEAVY, LIGHT, Done, Server

ROOT = Path(__file__).resolve().parents[3]
TOY = ROOT / "tests" / "toy_method.py"
HOME = "/home/ada/work"
"""What messages on the page call the folder where a case runs."""
_SETTINGS = ("MDP_", "MLFLOW_", "HF_", "VOC_", "COCO_", "IMAGES", "TERMINAL_WIDTH", "FORCE_COLOR", "NO_COLOR")
_BOX = re.compile(r"^[╭╰]─.*─[╮╯]$|^Usage: ")
_VARYING = (
    (re.compile(r"\d{8}-\d{6}-([a-z0-9-]+?)-[0-9a-f]{4,8}\b"), r"20260101-120000-\1-1a2b"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "…"),
    (re.compile(r"\bpid \d+|\bprocess \d+"), "process 4711"),
)


@dataclass(frozen=True)
class Case:
    """One mistake.

    Attributes:
        mistake: What is wrong, in Markdown; unique.
        command: The command line, as a person types it.
        files: Path → contents, in the folder where the command is called; a Path is copied from there.
        prepare: Makes further files in the folder.
        env: Environment variables.
        code: Expected exit code; 0 where the work goes on with a warning.
        slow: Whether torch is needed.
    """

    mistake: str
    command: str
    files: Mapping[str, str | bytes | Path] = field(default_factory=dict)
    prepare: Callable[[Path], None] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    code: int = 2
    slow: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of a case: exit code, both streams as they were, and the message for the page."""

    code: int
    stdout: str
    stderr: str
    message: str


class Runner:
    """Runs cases, one after the other."""

    def __init__(self) -> None:
        self._servers: dict[bool, Server] = {}

    def run(self, case: Case) -> Outcome:
        """Makes the files of a case in a folder of its own and calls its command there, as a person would."""
        with tempfile.TemporaryDirectory(prefix="mdp-case-") as name:
            folder = Path(name).resolve()
            for path, contents in case.files.items():
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                given = contents.read_bytes() if isinstance(contents, Path) else contents
                target.write_bytes(given.encode() if isinstance(given, str) else given)
            if case.prepare is not None:
                case.prepare(folder)
            done = self._call(case, folder)
            return Outcome(done.code, done.stdout, done.stderr, message_of(done.stderr, folder))

    def _call(self, case: Case, folder: Path) -> Done:
        program, *arguments = shlex.split(case.command)
        if program != "mdp":
            raise ValueError(f"{case.mistake}: a command begins with mdp: {case.command}")
        env = {k: v for k, v in os.environ.items() if not k.startswith(_SETTINGS)}
        env |= {
            "COLUMNS": "500",
            "LC_ALL": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        if case.slow not in self._servers:
            self._servers[case.slow] = Server(HEAVY if case.slow else LIGHT, env | {"XDG_CACHE_HOME": "/nonexistent"})
        return self._servers[case.slow].call(arguments, folder, {**env, "XDG_CACHE_HOME": str(folder / ".cache"), **case.env})

    def close(self) -> None:
        """Ends its processes."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()


def message_of(stderr: str, folder: Path) -> str:
    """Returns what a person reads, without what differs from machine to machine and run to run."""
    lines = []
    for line in stderr.splitlines():
        text = line.strip() if line.startswith("│") else line.rstrip()
        if not text or _BOX.match(text):
            continue
        lines.append(text.strip("│").strip() if text.startswith("│") else text)
    text = "\n".join(lines).replace(str(folder), HOME).replace(str(ROOT), "/home/ada/mdp")
    for pattern, stand_in in _VARYING:
        text = pattern.sub(stand_in, text)
    return text
