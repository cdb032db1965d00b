"""A pool of workers: gives them a step's tasks one by one, and does again what was lost with a process or a machine."""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdp_core.api import MdpError, Task, TaskListener
from mdp_ray.cluster import import_ray, nodes, wait
from mdp_ray.events import Failure
from mdp_ray.worker import Worker, environment, version

_POLL = 0.1
"""Seconds between two looks into the mailbox."""
_LOOK_ROUND = 2.0
"""Seconds between two looks at which machines there are."""
_IMPATIENCE = 30.0
"""Seconds without any worker after which the person is told what is being waited for."""
_FAREWELL = 10.0
"""Seconds that ended workers may take to be gone."""


@dataclass(frozen=True)
class Shape:
    """What makes workers interchangeable."""

    stage: str
    cpus: int
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus} CPU{'s' * (self.cpus != 1)}" + (
            f" and {self.gpus:g} GPU{'s' * (self.gpus > 1)}" if self.gpus else ""
        )


class Post:
    """Takes events out of the mailbox and tells them, those of lost attempts too: they did happen."""

    def __init__(self, mailbox: Any, tasks: Sequence[Task], log: Path, listener: TaskListener) -> None:
        self.mailbox, self.log, self.listener = mailbox, log, listener
        self._tasks = {task.id: task for task in tasks}

    def deliver(self) -> None:
        """Tells what has come; a mailbox that Ray is just starting anew has nothing.

        Raises:
            StageError: A task told of its failure.
        """
        ray = import_ray()
        try:
            events = ray.get(self.mailbox.take.remote(), timeout=_FAREWELL)
        except ray.exceptions.RayError:
            return
        for task, event in events:
            if task in self._tasks:
                event.tell(self._tasks[task], self.log, self.listener)


class Pool:
    """Workers of one shape. They are actors, not Ray tasks: a worker keeps its GPU, and the weights on it, between two shards.

    Args:
        shape: What each worker holds.
        limit: Most workers; None: as many as there is room for.
        retries: How often a task is done again.
    """

    def __init__(self, shape: Shape, limit: int | None, retries: int) -> None:
        self.shape, self.limit, self.retries = shape, limit, retries
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, Task]] = {}
        self._room, self._looked = 0, -_LOOK_ROUND

    def run(self, tasks: Sequence[Task], post: Post) -> None:
        """Does all tasks.

        Raises:
            StageError: One failed, or was lost too often; workers run on until ``close``.
        """
        waiting, lost, failed_starts = deque(tasks), Counter[str](), 0
        begun = time.monotonic()
        while waiting or self._busy:
            self._hire(len(waiting) + len(self._busy))
            while self._idle and waiting:
                worker, task = self._idle.pop(), waiting.popleft()
                self._busy[worker.do.remote(task, str(post.log), post.mailbox)] = worker, task
            over = wait([*self._busy, *self._starting], _POLL)
            post.deliver()
            for reference in over:
                if reference in self._starting:
                    failed_starts = 0 if self._greet(reference, tasks[0], post) else failed_starts + 1
                    if failed_starts > self.retries:
                        raise tasks[0].died(f"{failed_starts} workers in a row died at their start", post.log)
                elif (gone := self._end(reference, post)) is not None:
                    task, reason = gone
                    lost[task.id] += 1
                    if lost[task.id] > self.retries:
                        raise task.died(f"{reason}; so it went {lost[task.id]} times" if self.retries else reason, post.log)
                    post.listener.warn(task, f"{task.id}: its process was lost ({reason}); it is done again")
                    waiting.appendleft(task)
            if not self._busy and not self._idle and time.monotonic() - begun > _IMPATIENCE:
                begun = float("inf")
                post.listener.warn(tasks[0], f"waiting for the Ray cluster to have {self.shape} free for a worker")

    def close(self) -> None:
        """Ends all workers and returns when nothing runs any more."""
        ray = import_ray()
        busy = list(self._busy)
        for worker in [*self._starting.values(), *self._idle, *(worker for worker, _ in self._busy.values())]:
            ray.kill(worker)
        self._starting, self._idle, self._busy = {}, [], {}
        if busy:
            wait(busy, _FAREWELL, len(busy))

    def _hire(self, work: int) -> None:
        """Asks for workers until there are as many as there is work and room for."""
        if self.limit is None and time.monotonic() - self._looked > _LOOK_ROUND:
            self._looked = time.monotonic()
            self._room = max(1, sum(node.holds(self.shape.cpus, self.shape.gpus) for node in nodes()))
        wanted = min(work, self.limit or self._room)
        while len(self._starting) + len(self._idle) + len(self._busy) < wanted:
            options = {"num_cpus": self.shape.cpus, "num_gpus": self.shape.gpus, "scheduling_strategy": "SPREAD"}
            worker = import_ray().remote(Worker).options(**options).remote(environment(), version())
            self._starting[worker.ready.remote()] = worker

    def _greet(self, reference: Any, task: Task, post: Post) -> bool:
        """Puts a worker that has started among the idle ones; returns whether it has.

        Raises:
            StageError: Its machine cannot do our tasks.
        """
        ray = import_ray()
        worker = self._starting.pop(reference)
        try:
            failure: Failure | None = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            message = f"a worker of the Ray cluster cannot start: {error.cause}"
            raise task.failed(MdpError(message, hint="is mdp installed on all machines of the cluster?")) from error
        except ray.exceptions.RayError:
            return False
        if failure is not None:
            failure.tell(task, post.log, post.listener)
        self._idle.append(worker)
        return True

    def _end(self, reference: Any, post: Post) -> tuple[Task, str] | None:
        """Takes the end of a task; returns the task and what happened where it was lost.

        Raises:
            StageError: It failed.
        """
        ray = import_ray()
        worker, task = self._busy.pop(reference)
        try:
            failure: Failure | None = ray.get(reference)
        except ray.exceptions.RayError as error:
            ray.kill(worker)
            return task, _cause(error)
        self._idle.append(worker)
        if failure is not None:
            failure.tell(task, post.log, post.listener)
        return None


def _cause(error: Exception) -> str:
    """Returns, in a few words, why a process is gone."""
    text = str(error)
    if "node has died" in text:
        return "its machine is gone"
    if "low on memory" in text:
        return "its machine ran out of memory"
    code = re.search(r"exit code (\d+)", text)
    return f"exit code {code[1]}" if code else "killed: most often the machine ran out of memory"
