"""What tasks tell while they run, wherever they run: kept in a mailbox beside the engine, which empties it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdp_core.api import MdpError, Task, TaskListener

_PERIOD = 0.1
"""Seconds between two deliveries of a task's events."""
_PATIENCE = 10.0
"""Seconds that a task waits for the mailbox at its end."""


@dataclass(frozen=True)
class Progress:
    """``Listener.progress``."""

    done: int
    total: int
    metrics: Mapping[str, float]

    def tell(self, task: Task, log: Path, listener: TaskListener) -> None:
        """Passes it on."""
        listener.progress(task, self.done, self.total, self.metrics)


@dataclass(frozen=True)
class Note:
    """``Listener.note``."""

    name: str
    value: str

    def tell(self, task: Task, log: Path, listener: TaskListener) -> None:
        """Passes it on."""
        listener.note(task, self.name, self.value)


@dataclass(frozen=True)
class Warned:
    """``Listener.warn``."""

    message: str

    def tell(self, task: Task, log: Path, listener: TaskListener) -> None:
        """Passes it on."""
        listener.warn(task, self.message)


@dataclass(frozen=True)
class Failure:
    """A task has failed for good.

    Attributes:
        message: For people, or type and text of another exception.
        hint: What to do, where that is known.
        crash: Whether it was no error for people.
    """

    message: str
    hint: str | None = None
    crash: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Returns what to tell of an exception."""
        if isinstance(error, MdpError):
            return cls(error.message, error.hint)
        return cls(" ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]), crash=True)

    def tell(self, task: Task, log: Path, listener: TaskListener) -> None:
        """Ends the step.

        Raises:
            StageError: Always.
        """
        raise task.crashed(self.message, log) if self.crash else task.failed(MdpError(self.message, hint=self.hint))


Event = Progress | Note | Warned | Failure


class Mailbox:
    """An actor on the engine's machine: no lost machine takes events with it that it had delivered."""

    def __init__(self) -> None:
        self._events: list[tuple[str, Event]] = []

    def put(self, task: str, events: list[Event]) -> None:
        """Takes events of a task, by its id."""
        self._events += [(task, event) for event in events]

    def take(self) -> list[tuple[str, Event]]:
        """Returns what has come since the last time."""
        events, self._events = self._events, []
        return events


class Messenger:
    """The listener of one task: sends what it hears to the mailbox, all in order, from a thread of its own.

    Of progress without metrics only the latest matters; everything else arrives.

    Args:
        mailbox: Handle of the mailbox.
        task: Id of the task.
    """

    def __init__(self, mailbox: Any, task: str) -> None:
        self._mailbox, self._task = mailbox, task
        self._events: list[Event] = []
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._deliver, daemon=True)
        self._thread.start()

    def __enter__(self) -> Messenger:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.flush()

    def tell(self, event: Event) -> None:
        """Adds an event."""
        with self._lock:
            last = self._events[-1] if self._events else None
            if isinstance(event, Progress) and isinstance(last, Progress) and not last.metrics:
                self._events.pop()
            self._events.append(event)

    def progress(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Tells of progress."""
        self.tell(Progress(int(done), int(total), {name: float(value) for name, value in metrics.items()}))

    def note(self, name: str, value: str) -> None:
        """Tells a fact for the record."""
        self.tell(Note(name, str(value)))

    def warn(self, message: str) -> None:
        """Tells a warning."""
        self.tell(Warned(message))

    def flush(self) -> None:
        """Returns when all events so far have arrived, or cannot."""
        import ray

        with self._sending:
            with self._lock:
                events, self._events = self._events, []
            if events:
                with suppress(ray.exceptions.RayError):
                    ray.get(self._mailbox.put.remote(self._task, events), timeout=_PATIENCE)

    def _deliver(self) -> None:
        while not self._over.wait(_PERIOD):
            self.flush()
