"""Launching steps: a worker process a stage, or, for a debugger, this very process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

from mdp_core.engine.jobs import Job
from mdp_core.errors import StageError
from mdp_core.stages.base import Listener

_GRACE_SECONDS = 5.0
_SPIN_COUNT = "10000"
"""GNU OpenMP's threads wait for work by spinning, by default so long that two trainings on one machine, or one beside other
work, take several times longer than their share. This bound costs nothing on an idle machine (benchmarks/openmp_spin.py)."""


class Launcher(Protocol):
    """Does jobs, one after the other."""

    def run(self, job: Job, log: Path, listener: Listener) -> None:
        """Does one job; what it prints goes to ``log``.

        Raises:
            MdpError: The step failed.
        """

    def close(self) -> None:
        """Ends what still runs."""


class ProcessLauncher:
    """Gives the jobs of one stage to one worker process, and each stage a worker of its own."""

    def __init__(self) -> None:
        self._stage: str | None = None
        self._worker: _Worker | None = None

    def run(self, job: Job, log: Path, listener: Listener) -> None:
        """Does one job in the worker of its stage."""
        if self._worker is None or job.stage != self._stage:
            self.close()
            self._worker, self._stage = _Worker(log), job.stage
        try:
            self._worker.run(job, listener)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the worker."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None


class _Worker:
    def __init__(self, log: Path) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        receive, send = os.pipe()
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mdp_core.engine.worker", str(send), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[send],
                env={"GOMP_SPINCOUNT": _SPIN_COUNT, **os.environ},
                start_new_session=True,  # Ctrl-C reaches the engine alone, which then ends the worker
                text=True,
            )
        os.close(send)
        self.events: IO[str] = os.fdopen(receive, encoding="utf-8")

    def run(self, job: Job, listener: Listener) -> None:
        """Sends the job and listens until it ends."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.write(job.to_json() + "\n")
                self.process.stdin.flush()
        for line in self.events:
            event = json.loads(line)
            match event.pop("event"):
                case "progress":
                    listener.progress(event["done"], event["total"], event["metrics"])
                case "note":
                    listener.note(event["name"], event["value"])
                case "warn":
                    listener.warn(event["message"])
                case "error":
                    raise StageError(f"{job.id}: {event['message']}", hint=event["hint"])
                case "crash":
                    raise StageError(
                        f"{job.id} ({job.kind}:{job.plugin}) crashed: {event['message']}", hint=f"traceback: {self.log}"
                    )
                case "done":
                    return
        code = self.process.wait()
        raise StageError(
            f"{job.id} ({job.kind}:{job.plugin}): its process died ({_reason(code)})", hint=f"its output: {self.log}"
        )

    def stop(self) -> None:
        """Ends the process: kindly, then not."""
        for stream in (self.process.stdin, self.events):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        self.process.terminate()
        try:
            self.process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class InlineLauncher:
    """Does jobs in this process: for debuggers and for tests of plugins."""

    def __init__(self) -> None:
        from mdp_core.engine.execute import Executor

        self._executor = Executor()

    def run(self, job: Job, log: Path, listener: Listener) -> None:
        """Does one job here; its output goes where this process's goes."""
        self._executor.execute(job, listener)

    def close(self) -> None:
        """Nothing runs elsewhere."""


def _reason(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}: most often the machine ran out of memory" if -code == signal.SIGKILL else name
