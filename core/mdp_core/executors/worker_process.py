"""A worker process, seen from the engine: give it tasks, hear of them, end it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

from mdp_core.errors import MdpError
from mdp_core.stages.executor import Task, TaskListener

_GRACE_SECONDS = 5.0
_SPIN_COUNT = "10000"
"""GNU OpenMP's threads wait for work by spinning, by default so long that two trainings on one machine, or one beside other
work, take several times longer than their share. This bound costs nothing on an idle machine (benchmarks/openmp_spin.py)."""


class WorkerProcess:
    """One worker process.

    Args:
        log: Takes what it prints.
        environment: Laid over this process's environment.
    """

    def __init__(self, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        receive, send = os.pipe()
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mdp_core.executors.worker", str(send), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[send],
                env={"GOMP_SPINCOUNT": _SPIN_COUNT, **os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C reaches the engine alone, which then ends the worker
                text=True,
            )
        os.close(send)
        self.events: IO[str] = os.fdopen(receive, encoding="utf-8")

    def begin(self, task: Task) -> None:
        """Sends a task."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.write(json.dumps(asdict(task)) + "\n")
                self.process.stdin.flush()

    def listen(self, task: Task, listener: TaskListener) -> None:
        """Listens until the task that was sent ends.

        Raises:
            StageError: It failed, or the process died.
        """
        for line in self.events:
            event = json.loads(line)
            match event.pop("event"):
                case "progress":
                    listener.progress(task, event["done"], event["total"], event["metrics"])
                case "note":
                    listener.note(task, event["name"], event["value"])
                case "warn":
                    listener.warn(task, event["message"])
                case "error":
                    raise task.failed(MdpError(event["message"], hint=event["hint"]))
                case "crash":
                    raise task.crashed(event["message"], self.log)
                case "done":
                    return
        code = self.process.wait()
        raise task.died(_reason(code), self.log)

    def run(self, task: Task, listener: TaskListener) -> None:
        """Does one task.

        Raises:
            StageError: It failed, or the process died.
        """
        self.begin(task)
        self.listen(task, listener)

    def stop(self) -> None:
        """Ends the process: kindly, then not."""
        self.process.terminate()
        try:
            self.process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """Ends the process and closes its pipes; nobody may be listening any more."""
        self.stop()
        for stream in (self.process.stdin, self.events):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def _reason(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}: most often the machine ran out of memory" if -code == signal.SIGKILL else name
