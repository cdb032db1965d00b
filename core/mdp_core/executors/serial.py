"""Executor ``serial``: a worker process a stage, one task after the other. Plugins decode ahead and batch images of equal size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mdp_core.executors.nursery import Nursery
from mdp_core.executors.settings import SerialConfig
from mdp_core.executors.worker_process import WorkerProcess
from mdp_core.stages.executor import Executor, Task, TaskListener


class SerialExecutor(Executor[SerialConfig]):
    """Gives the tasks of one stage to one worker process, and each stage a process of its own."""

    Config = SerialConfig

    def __init__(self, config: SerialConfig) -> None:
        super().__init__(config)
        self._stage = ""
        self._nursery: Nursery | None = None
        self._worker: WorkerProcess | None = None

    def prepare(self) -> None:
        """Starts the nursery."""
        self._ready()

    def _ready(self) -> Nursery:
        if self._nursery is None:
            self._nursery = Nursery()
        return self._nursery

    def run(self, tasks: Sequence[Task], log: Path, listener: TaskListener) -> None:
        """Does the tasks in the worker of their stage."""
        try:
            for task in tasks:
                if self._worker is None or task.stage != self._stage:
                    self._end_worker()
                    self._worker, self._stage = WorkerProcess(self._ready(), log), task.stage
                self._worker.run(task, listener)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the worker and the nursery."""
        self._end_worker()
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None

    def _end_worker(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None
