"""Executor ``process``: several worker processes on this machine, one device each.

The shards of a map step go to whichever process is free. A training that can be done by several processes is: they get the
variables that torchrun sets (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR``, ``MASTER_PORT``) and meet on the
loopback interface. torchrun itself would stand between the engine and its workers, without their pipes.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mdp_core.executors.nursery import Nursery
from mdp_core.executors.settings import ProcessConfig
from mdp_core.executors.worker_process import WorkerProcess
from mdp_core.stages.executor import Executor, Task, TaskListener

_LOOK_SECONDS = 0.2


class ProcessExecutor(Executor[ProcessConfig]):
    """Gives the tasks of a step to several worker processes; each stage has processes of its own."""

    Config = ProcessConfig

    def __init__(self, config: ProcessConfig) -> None:
        super().__init__(config)
        self._crew = ("", False)
        self._nursery: Nursery | None = None
        self._workers: list[WorkerProcess] = []

    def prepare(self) -> None:
        """Starts the nursery."""
        self._ready()

    def _ready(self) -> Nursery:
        if self._nursery is None:
            self._nursery = Nursery()
        return self._nursery

    def run(self, tasks: Sequence[Task], log: Path, listener: TaskListener) -> None:
        """Does the tasks, several at once."""
        first = tasks[0]
        try:
            crew = (first.stage, first.shard is None)  # who does a step whole has all cores
            if crew != self._crew:
                self._end_workers()
                self._crew = crew
            devices = gpus() if first.device in ("auto", "cuda") else []
            together = (self.config.train_workers or max(1, len(devices))) if first.distributed else 1
            if together > 1:
                self._end_workers()
                self._train(first, together, devices, log, listener)
            else:
                own = 1 if first.device.startswith("cuda") else os.cpu_count() or 1
                workers = 1 if first.shard is None else self.config.workers or len(devices) or own
                self._share(tasks, workers, devices, log, listener)
        except BaseException:
            self.close()
            raise

    def _share(self, tasks: Sequence[Task], crew: int, devices: Sequence[str], log: Path, listener: TaskListener) -> None:
        """Lets workers take tasks from a queue, at most ``crew`` of them."""
        count = min(crew, len(tasks))
        while len(self._workers) < count:
            environment = _threads(crew)
            if devices:
                environment["CUDA_VISIBLE_DEVICES"] = devices[len(self._workers) % len(devices)]
            self._start(log, environment)
        waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
        for task in tasks:
            waiting.put(task)

        def work(worker: WorkerProcess) -> None:
            while True:
                try:
                    task = waiting.get_nowait()
                except queue.Empty:
                    return
                worker.run(task, listener)

        _at_once([lambda worker=worker: work(worker) for worker in self._workers[:count]], self._stop)  # type: ignore[misc]

    def _train(self, task: Task, world: int, devices: Sequence[str], log: Path, listener: TaskListener) -> None:
        """Lets ``world`` workers do one task together; rank 0 speaks for all."""
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(world)}
        meeting["LOCAL_WORLD_SIZE"] = meeting["WORLD_SIZE"]
        if not devices:
            meeting |= {"GLOO_SOCKET_IFNAME": "lo", **_threads(world)}
        for rank in range(world):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            where = log if rank == 0 else log.with_name(f"{log.stem}-rank{rank}{log.suffix}")
            self._start(where, {**meeting, **own})
        try:
            _at_once([lambda worker=worker: worker.run(task, listener) for worker in self._workers], self._stop)  # type: ignore[misc]
        finally:
            self._end_workers()

    def _start(self, log: Path, environment: Mapping[str, str]) -> None:
        self._workers.append(WorkerProcess(self._ready(), log, environment))

    def _stop(self) -> None:
        for worker in self._workers:
            worker.stop()

    def close(self) -> None:
        """Ends the workers and the nursery."""
        self._end_workers()
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None

    def _end_workers(self) -> None:
        for worker in self._workers:
            worker.close()
        self._workers = []


def _at_once(actions: Sequence[Callable[[], None]], stop: Callable[[], None]) -> None:
    """Does the actions in threads; when one fails, or the person ends it, calls ``stop``, waits for the others and raises the first error."""
    errors: list[BaseException] = []

    def guarded(action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(action,), daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive() and not errors:
                thread.join(_LOOK_SECONDS)
    finally:
        if errors or any(thread.is_alive() for thread in threads):
            first = list(errors)
            stop()
            for thread in threads:
                thread.join()
            errors[:] = first or errors
    if errors:
        raise errors[0]


def gpus() -> list[str]:
    """Returns the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them; does not import torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [str(n) for n in range(sum(p.name.removeprefix("nvidia").isdigit() for p in Path("/dev").glob("nvidia*")))]


def _threads(processes: int) -> dict[str, str]:
    """Returns the share of the machine's cores that each of so many processes uses, unless the person said otherwise."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
