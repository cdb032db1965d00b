"""A limit on how long a plugin may go without a result.

First, the main thread is interrupted with the error, as Ctrl-C would interrupt it. A plugin that cannot be interrupted (it sits in
compiled code) loses its process: a thread says why and ends it; if even that thread cannot run, because that code holds Python's
lock, ``faulthandler``, which needs no lock, does it.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

from mdp_core.errors import PluginError
from mdp_core.stages.base import Listener

GRACE_SECONDS = 5.0
"""How long an interrupted plugin may take to end, before its process is ended; twice that where nothing says why."""
_STDERR = 2
"""File descriptor; in a worker it is the step's log."""


class Patience:
    """Context manager around a plugin's work.

    Args:
        seconds: The limit from one result to the next; None for no limit.
        late: Makes the error.
        listener: Told of it where the process has to be ended.
    """

    def __init__(self, seconds: float | None, late: Callable[[], PluginError], listener: Listener) -> None:
        self._seconds, self._late, self._listener = seconds, late, listener
        self._main = threading.current_thread() is threading.main_thread()
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Patience:
        if self._seconds is not None and self._main:
            self._former = signal.signal(signal.SIGALRM, self._interrupt)
        self.renew()
        return self

    def __exit__(self, *_: object) -> None:
        if self._seconds is None:
            return
        self._disarm()
        if self._main:
            signal.signal(signal.SIGALRM, self._former)

    def renew(self) -> None:
        """Starts to count anew: there is a result."""
        if self._seconds is None:
            return
        self._disarm()
        if self._main:
            signal.setitimer(signal.ITIMER_REAL, self._seconds)
        self._timer = threading.Timer(self._seconds + GRACE_SECONDS, self._end_process)
        self._timer.daemon = True
        self._timer.start()
        faulthandler.dump_traceback_later(self._seconds + 2 * GRACE_SECONDS, exit=True, file=_STDERR)

    def _disarm(self) -> None:
        if self._main:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self._timer is not None:
            self._timer.cancel()
        faulthandler.cancel_dump_traceback_later()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        raise self._late()

    def _end_process(self) -> None:
        error = self._late()
        self._listener.warn(f"{error.message}; it cannot be interrupted, so its process is ended ({error.hint})")
        os._exit(1)
