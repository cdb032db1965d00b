"""Executor ``ray``: connects when the first task comes, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdp_core.api import Executor, StageError, Task, TaskListener
from mdp_ray.cluster import Node, connect, here, import_ray, nodes
from mdp_ray.events import Mailbox
from mdp_ray.pool import Pool, Post, Shape
from mdp_ray.settings import RayConfig


class RayExecutor(Executor[RayConfig]):
    """Gives the tasks of a step to workers on the machines of a cluster; each stage has workers of its own.

    Raises:
        PluginError: Ray is not installed.
    """

    Config = RayConfig

    def __init__(self, config: RayConfig) -> None:
        super().__init__(config)
        import_ray()
        self._ours = False
        self._mailbox: Any = None
        self._pool: Pool | None = None

    def run(self, tasks: Sequence[Task], log: Path, listener: TaskListener) -> None:
        """Does the tasks; see ``Executor.run``."""
        first = tasks[0]
        self._connect()
        log.parent.mkdir(parents=True, exist_ok=True)
        post = Post(self._mailbox, tasks, log.absolute(), listener)
        try:
            if first.distributed and self.config.train_workers > 1:
                from mdp_ray.train import Training

                self._dismiss()
                size = self._shape(first, self.config.train_workers)
                Training(size, self.config.train_workers, self.config.retries).run(first, post)
            else:
                self._crew(self._shape(first, 1)).run(tasks, post)
        except BaseException:
            self._dismiss()
            raise

    def close(self) -> None:
        """Ends the workers, and the connection; with it the cluster where this executor started it."""
        if self._mailbox is None:
            return
        ray = import_ray()
        if ray.is_initialized():
            self._dismiss()
            ray.kill(self._mailbox)
        self._mailbox = self._pool = None
        if self._ours:
            ray.shutdown()

    def _connect(self) -> None:
        if self._mailbox is not None:
            return
        config = self.config
        ray = import_ray()
        needed = max((config.workers or 1) * config.cpus_per_task, config.train_workers * (config.cpus_per_fit or 1))
        self._ours = connect(config.address, needed)
        self._mailbox = ray.remote(Mailbox).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here()).remote()

    def _dismiss(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _crew(self, shape: Shape) -> Pool:
        """Returns the workers for tasks of this shape: those of the last step where they fit."""
        if self._pool is not None and self._pool.shape != shape:
            self._dismiss()
        if self._pool is None:
            self._pool = Pool(shape, self.config.workers, self.config.retries)
        return self._pool

    def _shape(self, task: Task, processes: int) -> Shape:
        """Returns what one process of a task holds.

        Raises:
            StageError: No machine of the cluster has so much.
        """
        there = nodes()
        gpus = self._gpus(task, there)
        cpus = self.config.cpus_per_task
        if task.shard is None:
            cpus = self.config.cpus_per_fit or cpus_of_fit(there, gpus, processes)
        shape = Shape(task.stage, cpus, gpus)
        if self.config.workers is None and sum(node.holds(cpus, gpus) for node in there) < processes:
            raise StageError(
                f"{task.id}: it needs {f'{processes} times ' if processes > 1 else ''}{shape}, and the Ray cluster has {_inventory(there)}",
                hint="lower executor.cpus_per_task, cpus_per_fit, gpus_per_task or train_workers; "
                "where the cluster grows on demand, set executor.workers",
            )
        return shape

    def _gpus(self, task: Task, there: Sequence[Node]) -> float:
        if task.device.startswith("cuda:"):
            raise StageError(
                f"{task.id}: device {task.device} is a GPU of one machine, but Ray gives the GPUs out",
                hint="write device: cuda",
            )
        if self.config.gpus_per_task is not None:
            return self.config.gpus_per_task
        if task.device == "cuda":
            return 1.0
        return 1.0 if task.device == "auto" and any(node.gpus >= 1 for node in there) else 0.0


def cpus_of_fit(there: Sequence[Node], gpus: float, processes: int) -> int:
    """Returns the CPUs of each of a training's processes: what falls to it where a machine is full of such processes.

    With GPUs a machine is full when its GPUs are used; without, when it does its share of ``processes``.
    """
    able = [node for node in there if node.holds(1, gpus)]
    if not able:
        return 1
    if gpus:
        return max(1, *(int(node.cpus * gpus // node.gpus) for node in able))
    each = -(-processes // len(able))
    return max(1, int(max(node.cpus for node in able) // each))


def _inventory(there: Sequence[Node]) -> str:
    """Returns, for people, what machines there are."""
    if not there:
        return "no machine"
    return ", ".join(f"a machine of {node.cpus:g} CPUs" + f" and {node.gpus:g} GPUs" * bool(node.gpus) for node in there)
