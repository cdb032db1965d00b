"""Calls mdp many times without starting Python each time: a process that has imported it, and forks once a call.

What a call does is what ``mdp`` does, in a process, a folder and an environment of its own; only the imports are shared.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LIGHT = (
    "mdp_core.cli.main", "mdp_core.cli.progress", "mdp_core.cli.results", "mdp_core.engine.run", "mdp_core.engine.repeat",
    "mdp_core.recipe.load", "mdp_core.executors.process", "typer.rich_utils", "rich.table", "rich.progress", "PIL.PngImagePlugin",
    "PIL.JpegImagePlugin",
)  # fmt: skip
HEAVY = (*LIGHT, "torch", "torchvision", "timm", "mdp_backbones.weights")


@dataclass(frozen=True)
class Done:
    """How a call ended."""

    code: int
    stdout: str
    stderr: str


class Server:
    """One such process; it makes one call at a time.

    Args:
        modules: What it imports first.
        env: Its environment; some libraries look at it only when they are imported.
    """

    def __init__(self, modules: Sequence[str], env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), *modules],
            env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def call(self, arguments: Sequence[str], folder: Path, env: Mapping[str, str]) -> Done:
        """Calls ``mdp`` with these arguments."""
        with tempfile.TemporaryDirectory(prefix="mdp-call-") as place:
            job = {"arguments": list(arguments), "folder": str(folder), "env": dict(env), "place": place}
            if self._process.stdin is None or self._process.stdout is None:
                raise RuntimeError("the server has no pipes")
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            texts = [(Path(place) / name).read_text(encoding="utf-8", errors="replace") for name in ("stdout", "stderr")]
        return Done(code, *texts)

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(30)


def serve(modules: Sequence[str]) -> None:
    """Forks once a line of standard input, and prints the exit code."""
    for name in modules:
        importlib.import_module(name)
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(_call(job))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()


def _call(job: Mapping[str, object]) -> int:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(str(job["place"])) / name, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(str(job["folder"]))
    os.environ.clear()
    os.environ.update(job["env"])  # type: ignore[call-overload]
    sys.argv = ["mdp", *job["arguments"]]  # type: ignore[misc]
    from mdp_core.cli.main import main

    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve(sys.argv[1:])
