"""Executor ``serial``: a worker process a stage, one task after the other. Plugins decode ahead and batch images of equal size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mdp_core.executors.settings import SerialConfig
from mdp_core.executors.worker_process import WorkerProcess
from mdp_core.stages.executor import Executor, Task, TaskListener


class SerialExecutor(Executor[SerialConfig]):
    """Gives the tasks of one stage to one worker process, and each stage a process of its own."""

    Config = SerialConfig

    def __init__(self, config: SerialConfig) -> None:
        super().__init__(config)
        self._stage = ""
        self._worker: WorkerProcess | None = None

    def run(self, tasks: Sequence[Task], log: Path, listener: TaskListener) -> None:
        """Does the tasks in the worker of their stage."""
        try:
            for task in tasks:
                if self._worker is None or task.stage != self._stage:
                    self.close()
                    self._worker, self._stage = WorkerProcess(log), task.stage
                self._worker.run(task, listener)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the worker."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
