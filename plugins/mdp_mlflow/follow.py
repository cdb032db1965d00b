"""The follower of a run: a process of its own that sends the run's journal to MLflow while it grows.

MLflow takes a second and more to import, servers are slow or down, and none of that may hold up a run or end it. So the
engine's process does not talk to MLflow: this one does, reads what it sends from the run's journal, and outlives the run
where there is still something to send. ``python -m mdp_mlflow.follow RUN_FOLDER --parent PID --patience SECONDS``.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from mdp_mlflow.names import redact
from mdp_mlflow.state import LOCK, State, describe, journal_size, run_is_over

if TYPE_CHECKING:
    from mdp_mlflow.sender import Sender

_TICK = 0.05
_BETWEEN_SENDS = 2.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0


@dataclass
class _Clock:
    """When to try next: soon after the first failure, later after many."""

    pause: float = _FIRST_PAUSE
    next: float = 0.0

    def hurry(self) -> None:
        """The run is over: now is the time."""
        self.pause, self.next = _FIRST_PAUSE, 0.0

    def failed(self) -> None:
        self.next = time.monotonic() + self.pause
        self.pause = min(self.pause * 2, _LONGEST_PAUSE)

    def worked(self) -> None:
        self.pause, self.next = _FIRST_PAUSE, time.monotonic() + _BETWEEN_SENDS


class Follower:
    """Follows one run to its end.

    Args:
        folder: The run's folder.
        parent: The engine's process, which is our parent while it lives.
        patience: Seconds after the run's end after which a server that does not answer is given up.
    """

    def __init__(self, folder: Path, parent: int, patience: float) -> None:
        self.folder, self.parent, self.patience = folder, parent, patience
        self.state = State.read(folder) or State()
        self._sender: Sender | None = None
        self._tried = bool(self.state.run_id)

    def follow(self) -> None:
        """Sends until all is sent, or the run is over and the server has not answered for a while."""
        clock, ended, size = _Clock(), 0.0, -1
        while not self.state.complete:
            # Asked before the journal is read, so that nothing is written after the last look at it.
            orphaned = os.getppid() != self.parent
            over = run_is_over(self.folder)
            if (over or orphaned) and not ended:
                ended = time.monotonic()
                clock.hurry()
            if time.monotonic() >= clock.next and (ended or journal_size(self.folder) != size):
                size = journal_size(self.folder)
                if self._try(killed=orphaned and not over):
                    clock.worked()
                else:
                    clock.failed()
                    size = -1
                    if ended and time.monotonic() - ended > self.patience:
                        return
            time.sleep(_TICK)

    def _try(self, *, killed: bool) -> bool:
        try:
            self._send(killed=killed)
        except Exception as error:
            print(redact(traceback.format_exc()), flush=True)  # noqa: T201 - this process's output is its log
            self._sender = None
            self.state.error = describe(error)
        else:
            self.state.error = ""
        self.state.save(self.folder)
        return not self.state.error

    def _send(self, *, killed: bool) -> None:
        from mdp_mlflow.sender import Sender
        from mdp_mlflow.sync import finish

        if self._sender is None:
            look, self._tried = self._tried, True
            gc.disable()  # a quarter of the time that importing MLflow takes is spent looking for garbage in vain
            try:
                self._sender = Sender.open(self.folder, self.state, look=look)
            finally:
                gc.enable()
        if not self._sender.send() and killed:
            self._sender.mark_killed()
        finish(self._sender)


def main() -> None:
    """Follows a run; SIGINT is for the run's process alone."""
    parser = argparse.ArgumentParser(prog="mdp_mlflow.follow")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--patience", type=float, default=1.0)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with FileLock(arguments.folder / LOCK, timeout=0):
            Follower(arguments.folder, arguments.parent, arguments.patience).follow()
    except Timeout:
        print("another process sends this run already", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
