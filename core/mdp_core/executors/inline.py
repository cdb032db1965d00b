"""Tasks done in this very process: for a debugger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mdp_core.executors.settings import SerialConfig
from mdp_core.stages.executor import Executor, Task, TaskListener


@dataclass
class OneTask:
    """A listener of one task, for those who listen to a step's tasks."""

    task: Task
    listener: TaskListener

    def progress(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Passes it on."""
        self.listener.progress(self.task, done, total, metrics)

    def note(self, name: str, value: str) -> None:
        """Passes it on."""
        self.listener.note(self.task, name, value)

    def warn(self, message: str) -> None:
        """Passes it on."""
        self.listener.warn(self.task, message)


class InlineExecutor(Executor[SerialConfig]):
    """Does tasks here; their output goes where this process's goes."""

    Config = SerialConfig

    def run(self, tasks: Sequence[Task], log: Path, listener: TaskListener) -> None:
        """Does the tasks here."""
        for task in tasks:
            task.do(OneTask(task, listener))
