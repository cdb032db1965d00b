"""Trainings by several processes, on one machine or several, through Ray Train.

Ray Train places the processes, joins them in torch's process group, and starts them anew where one was lost; the training then
goes on from its last checkpoint, which lies in the store. It runs in a process of the cluster: the engine imports no torch.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdp_core.api import Silence, Task
from mdp_ray.cluster import here, import_ray, on_loopback, wait
from mdp_ray.events import Failure, Messenger
from mdp_ray.pool import Post, Shape
from mdp_ray.worker import environment, print_to

_POLL = 0.1
_FAREWELL = 30.0
"""Seconds that Ray Train may take to end its processes."""
_LOST = ("gloo", "nccl", "connection closed", "connection reset", "connection refused", "broken pipe", "socket", "tcpstore")
_SETTINGS = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
}


@dataclass(frozen=True)
class Training:
    """One training that several processes do together.

    Attributes:
        shape: What each process holds.
        processes: How many there are.
        retries: How often they are started anew.
    """

    shape: Shape
    processes: int
    retries: int

    def run(self, task: Task, post: Post) -> None:
        """Does the task.

        Raises:
            StageError: It failed, or was lost too often.
        """
        ray = import_ray()
        storage = tempfile.mkdtemp(prefix="ray-train-", dir=post.log.parent)
        variables = {**environment(), **({"GLOO_SOCKET_IFNAME": "lo"} if on_loopback() else {})}
        conduct = ray.remote(_conduct).options(num_cpus=0, max_retries=0, scheduling_strategy=here())
        reference = conduct.remote(self, task, str(post.log), storage, variables, post.mailbox)
        try:
            while not wait([reference], _POLL):
                post.deliver()
            post.deliver()
            ray.get(reference)
        except ray.exceptions.RayError as error:
            cause = str(getattr(error, "cause", None) or error).strip().splitlines()[0]
            raise task.died(f"Ray Train gave up: {cause}", post.log) from error
        finally:
            self._end(reference)
            shutil.rmtree(storage, ignore_errors=True)

    def _end(self, reference: Any) -> None:
        """Ends what runs: kindly, so that Ray Train leaves nothing in the cluster, then not."""
        ray = import_ray()
        for force in (False, True):
            if wait([reference], 0):
                return
            with suppress(ray.exceptions.RayError):
                ray.cancel(reference, force=force, recursive=force)
                wait([reference], _FAREWELL)


def _conduct(training: Training, task: Task, log: str, storage: str, variables: Mapping[str, str], mailbox: Any) -> None:
    """Runs Ray Train, in a process of the cluster; its messages go to the log."""
    os.environ.update(_SETTINGS)
    print_to(Path(log))
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    gpus = training.shape.gpus
    TorchTrainer(
        _share,
        train_loop_config={"task": task, "log": log, "mailbox": mailbox},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=training.processes,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": training.shape.cpus, **({"GPU": gpus} if gpus else {})},
        ),
        run_config=RunConfig(
            name="fit",
            storage_path=storage,
            failure_config=FailureConfig(max_failures=training.retries),
            worker_runtime_env={"env_vars": dict(variables)},
        ),
    ).fit()


def _share(config: dict[str, Any]) -> None:
    """What each process does; ranks above 0 print to logs of their own, as under the executor ``process``."""
    import ray.train

    task, log, rank = config["task"], Path(config["log"]), ray.train.get_context().get_world_rank()
    print_to(log if rank == 0 else log.with_name(f"{log.stem}-rank{rank}{log.suffix}"))
    with Messenger(config["mailbox"], task.id) as messenger:
        try:
            task.do(messenger if rank == 0 else Silence())
        except (Exception, SystemExit) as error:
            with suppress(OSError):
                traceback.print_exc()
            if not lost_another(error):
                messenger.tell(Failure.of(error))
            raise
        finally:
            with suppress(OSError):
                sys.stdout.flush()


def lost_another(error: BaseException) -> bool:
    """Returns whether an exception is just the echo of another process's end, after which Ray Train starts all anew."""
    import torch.distributed as dist

    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(sign in str(error).lower() for sign in _LOST)
