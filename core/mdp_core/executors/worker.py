"""What a worker process does: tasks given as lines of JSON on one pipe, of which it tells as lines of JSON on another.

Tasks run here so that memory, registries of training libraries and crashes stay out of the engine, and so that the engine
itself never imports torch. A worker ends with its parent (``nursery.py``), even when that is killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from mdp_core.errors import MdpError
from mdp_core.stages.executor import Task

_PR_SET_PDEATHSIG = 1
_QUIET_SECONDS = 0.1


class PipeListener:
    """Sends progress, notes and warnings to the parent; plain progress at most ten times a second."""

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe
        self._last = 0.0

    def send(self, event: str, **values: Any) -> None:
        """Sends one event."""
        self._pipe.write(json.dumps({"event": event, **values}) + "\n")
        self._pipe.flush()

    def progress(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Sends progress."""
        now = time.monotonic()
        if metrics or done == total or now - self._last > _QUIET_SECONDS:
            self._last = now
            self.send("progress", done=int(done), total=int(total), metrics={k: float(v) for k, v in metrics.items()})

    def note(self, name: str, value: str) -> None:
        """Sends a fact for the record."""
        self.send("note", name=name, value=str(value))

    def warn(self, message: str) -> None:
        """Sends a warning."""
        self.send("warn", message=message)


def die_with_parent(parent: int) -> None:
    """Lets the system kill this process when its parent ends, and ends it if that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _print_traceback() -> None:
    """Prints the traceback to the log; on a full disk the message to the parent has to do."""
    with suppress(OSError):
        traceback.print_exc()


def serve(commands: IO[str], events: IO[str]) -> None:
    """Does tasks until ``commands`` ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the engine's to handle
    listener = PipeListener(events)
    for line in commands:
        try:
            Task(**json.loads(line)).do(listener)
        except MdpError as error:
            _print_traceback()
            listener.send("error", message=error.message, hint=error.hint)
        except Exception as error:
            _print_traceback()
            listener.send("crash", message=" ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]))
        else:
            listener.send("done")
        with suppress(OSError):
            sys.stdout.flush()
