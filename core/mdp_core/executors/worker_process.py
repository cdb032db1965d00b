"""A worker process, seen from the engine: give it tasks, hear of them, end it."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from mdp_core.errors import MdpError, StageError
from mdp_core.executors.nursery import Nursery
from mdp_core.stages.executor import Task, TaskListener

_GRACE_SECONDS = 5.0
_SPIN_COUNT = "10000"
"""GNU OpenMP's threads wait for work by spinning, by default so long that two trainings on one machine, or one beside other
work, take several times longer than their share. This bound costs nothing on an idle machine (benchmarks/openmp_spin.py)."""


class WorkerProcess:
    """One worker process.

    Args:
        nursery: Starts it.
        log: Takes what it prints.
        environment: Laid over this process's environment.
    """

    def __init__(self, nursery: Nursery, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._nursery = nursery
        their_commands, commands = os.pipe()
        events, their_events = os.pipe()
        spin = {} if "GOMP_SPINCOUNT" in os.environ else {"GOMP_SPINCOUNT": _SPIN_COUNT}
        self._pid = nursery.fork(log, their_commands, their_events, {**spin, **(environment or {})})
        os.close(their_commands)
        os.close(their_events)
        self._commands = os.fdopen(commands, "w", encoding="utf-8")
        self._events = os.fdopen(events, encoding="utf-8")
        self._lock = threading.Lock()
        self._code: int | None = None

    def begin(self, task: Task) -> None:
        """Sends a task."""
        with suppress(BrokenPipeError):
            self._commands.write(json.dumps(asdict(task)) + "\n")
            self._commands.flush()

    def listen(self, task: Task, listener: TaskListener) -> None:
        """Listens until the task that was sent ends.

        Raises:
            StageError: It failed, or the process died.
        """
        for line in self._events:
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
        raise task.died(_reason(self._wait()), self.log)

    def run(self, task: Task, listener: TaskListener) -> None:
        """Does one task.

        Raises:
            StageError: It failed, or the process died.
        """
        self.begin(task)
        self.listen(task, listener)

    def stop(self) -> None:
        """Ends the process: kindly, then not."""
        self._signal(signal.SIGTERM)
        killer = threading.Timer(_GRACE_SECONDS, self._signal, (signal.SIGKILL,))
        killer.start()
        try:
            self._wait()
        finally:
            killer.cancel()
            with suppress(ProcessLookupError):  # what it started (data loaders) would keep its pipes open
                os.killpg(self._pid, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process and to what it started: it leads a session of its own."""
        if self._code is None:
            try:
                os.killpg(self._pid, number)
            except ProcessLookupError:
                with suppress(ProcessLookupError):
                    os.kill(self._pid, number)

    def _wait(self) -> int:
        with self._lock:
            if self._code is None:
                try:
                    self._code = self._nursery.wait(self._pid)
                except StageError:  # the nursery was killed, and its workers with it
                    self._code = -signal.SIGKILL
            return self._code

    def close(self) -> None:
        """Ends the process and closes its pipes; nobody may be listening any more."""
        self.stop()
        for stream in (self._commands, self._events):
            with suppress(OSError):
                stream.close()


def _reason(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}: most often the machine ran out of memory" if -code == signal.SIGKILL else name
