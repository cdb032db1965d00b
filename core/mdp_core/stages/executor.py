"""Executor: where the work of a run is done. Steps are cut into tasks; an executor does them, in any order, in any place."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, Protocol

from mdp_core.errors import MdpError, StageError
from mdp_core.settings import StageConfig
from mdp_core.stages.base import ConfigT, Listener


@dataclass(frozen=True)
class Task:
    """One shard of a map step, or a whole fit or evaluation. Picklable; can be done wherever store and images can be reached.

    Doing a task twice does no harm: a shard that is there is not made again, and parts appear whole or not at all.

    Attributes:
        id: For people: ``prior.mine[train]``, ``prior.mine[train] shard 3/12``.
        stage: Tasks of one stage share their weights; a process that did one does the next one faster.
        job: What is to be done, as JSON; not for executors to read.
        shard: Number of the shard; None for a fit or an evaluation.
        images: How many images it reads.
        plugin: For people: ``prior:dino-affinity``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``, as the recipe says.
        distributed: Whether several processes may do it together: each calls ``do`` with torch's environment variables set
            (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR``, ``MASTER_PORT``), rank 0 writes the result.
        function: ``module:function`` that does it.
    """

    id: str
    stage: str
    job: str
    shard: int | None
    images: int
    plugin: str = ""
    device: str = "auto"
    distributed: bool = False
    function: str = "mdp_core.engine.execute:do"

    def do(self, listener: Listener) -> None:
        """Does the task in this process; plugins and their weights are kept for the next task of the stage.

        Raises:
            MdpError: It cannot be done; the message is for people.
        """
        module, _, name = self.function.partition(":")
        getattr(importlib.import_module(module), name)(self.job, self.shard, listener)

    def failed(self, error: MdpError) -> StageError:
        """Returns how an executor reports an error that the task raised for people."""
        return StageError(f"{self.id}: {error.message}", hint=error.hint)

    def crashed(self, message: str, log: Path) -> StageError:
        """Returns how an executor reports any other exception of the task: its type and text, and the log with the traceback."""
        return StageError(f"{self.id} ({self.plugin}) crashed: {message}", hint=f"traceback: {log}")

    def died(self, reason: str, log: Path) -> StageError:
        """Returns how an executor reports that the process of the task is gone."""
        return StageError(f"{self.id} ({self.plugin}): its process died ({reason})", hint=f"its output: {log}")


class TaskListener(Protocol):
    """Who hears of tasks; may be called from several threads."""

    def progress(self, task: Task, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """``done`` of ``total`` images of the shard, or iterations of the fit, with its metrics at this point."""

    def note(self, task: Task, name: str, value: str) -> None:
        """A fact for the record of the run."""

    def warn(self, task: Task, message: str) -> None:
        """Something a person should know; the work goes on."""


class Executor(ABC, Generic[ConfigT]):
    """Base class of executors. One lives as long as a run; ``close`` is called however the run ends.

    Class attributes:
        Config: The executor's settings model; none of its settings changes a result or belongs to a key.

    Args:
        config: Validated settings.
    """

    kind: ClassVar[str] = "executor"
    Config: ClassVar[type[StageConfig]]

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    def prepare(self) -> None:
        """Called early in a run that has something to do: a good moment to start what takes its time. Optional."""

    @abstractmethod
    def run(self, tasks: Sequence[Task], log: Path, listener: TaskListener) -> None:
        """Does all tasks of one step and returns when they are done.

        Args:
            tasks: In the order of their shards; any other order of doing them is as good.
            log: Takes what the tasks print (append to it).
            listener: Told of progress, notes and warnings.

        Raises:
            StageError: A task failed for good; the others have ended by then, or will find nothing to do.
            KeyboardInterrupt: The person ended the run; no task runs on.
        """

    def close(self) -> None:
        """Ends what still runs."""
