"""One mistake: the files, the command, and what comes of it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TOY = ROOT / "tests" / "toy_method.py"
HOME = "/home/ada/work"
"""What messages on the page call the folder where a case runs."""
_SETTINGS = ("MDP_", "MLFLOW_", "HF_", "VOC_", "COCO_", "IMAGES", "TERMINAL_WIDTH", "FORCE_COLOR", "NO_COLOR")
_BOX = re.compile(r"^[╭╰]─.*─[╮╯]$|^Usage: |^Try ")
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
        before: Command lines that have to succeed first.
        slow: Whether a training library has to be imported.
    """

    mistake: str
    command: str
    files: Mapping[str, str | bytes | Path] = field(default_factory=dict)
    prepare: Callable[[Path], None] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    code: int = 2
    before: tuple[str, ...] = ()
    slow: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of a case: exit code, both streams as they were, and the message for the page."""

    code: int
    stdout: str
    stderr: str
    message: str


def run_case(case: Case) -> Outcome:
    """Makes the files of a case in a folder of its own and calls its command there, as a person would."""
    with tempfile.TemporaryDirectory(prefix="mdp-case-") as name:
        folder = Path(name).resolve()
        for path, contents in case.files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(
                contents.read_bytes()
                if isinstance(contents, Path)
                else contents.encode()
                if isinstance(contents, str)
                else contents
            )
        if case.prepare is not None:
            case.prepare(folder)
        for command in case.before:
            first = _call(command, case, folder)
            if first.returncode != 0:
                raise RuntimeError(f"{case.mistake}: `{command}` failed first:\n{first.stdout}{first.stderr}")
        done = _call(case.command, case, folder)
        return Outcome(done.returncode, done.stdout, done.stderr, message_of(done.stderr, folder))


def _call(command: str, case: Case, folder: Path) -> subprocess.CompletedProcess[str]:
    program, *arguments = shlex.split(command)
    if program != "mdp":
        raise ValueError(f"{case.mistake}: a command begins with mdp: {command}")
    env = {k: v for k, v in os.environ.items() if not k.startswith(_SETTINGS)}
    env |= {"COLUMNS": "500", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLCONFIGDIR": "/tmp"}
    env |= {"CUDA_VISIBLE_DEVICES": "", "XDG_CACHE_HOME": str(folder / ".cache"), **case.env}
    return subprocess.run(
        [sys.executable, "-m", "mdp_core.cli.main", *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def message_of(stderr: str, folder: Path) -> str:
    """Returns what a person reads, without what differs from machine to machine and run to run."""
    lines = []
    for line in stderr.replace("python -m mdp_core.cli.main", "mdp").splitlines():
        text = line.strip() if line.startswith("│") else line.rstrip()
        if not text or _BOX.match(text):
            continue
        lines.append(text.strip("│").strip() if text.startswith("│") else text)
    text = "\n".join(lines).replace(str(folder), HOME).replace(str(ROOT), "/home/ada/mdp")
    for pattern, stand_in in _VARYING:
        text = pattern.sub(stand_in, text)
    return text
