"""Settings of the executor ``ray``. None of them changes a result."""

from __future__ import annotations

from pydantic import Field, field_validator

from mdp_core.api import StageConfig


class RayConfig(StageConfig):
    """Where the cluster is, and what of it a run may use."""

    address: str | None = None
    """``HOST:PORT`` of a cluster, ``auto`` for the one of this machine, ``local`` to start one here that ends with the run.
    Default: the cluster that ``RAY_ADDRESS`` names, otherwise ``local``."""
    workers: int | None = Field(None, ge=1)
    """Most tasks at once. Default: as many as the cluster's machines hold at the moment. Set it where a cluster grows on demand:
    so many workers are then asked for, and waited for."""
    cpus_per_task: int = Field(1, ge=1)
    """CPUs that Ray sets aside for each worker; libraries use so many threads."""
    gpus_per_task: float | None = Field(None, ge=0)
    """GPUs for each worker; 0.5 lets two share one. Default: 1 where the cluster has GPUs and the recipe's device is not cpu."""
    cpus_per_fit: int | None = Field(None, ge=1)
    """CPUs of a training or an evaluation, for each of its processes. Default: all of the largest machine, or those that fall to
    one of its GPUs. Set it where others use the cluster too: a training waits until so many are free at once."""
    train_workers: int = Field(1, ge=1)
    """Processes that do a training together, where its plugin can, through Ray Train: one GPU each where the device is not cpu.
    The batch is divided among them."""
    retries: int = Field(3, ge=0)
    """How often a task is done again whose machine was lost or whose process was killed. Errors of a plugin are never retried."""

    @field_validator("gpus_per_task")
    @classmethod
    def _shares_or_whole(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value != int(value):
            raise ValueError("gpus_per_task is a share of one GPU (0 to 1) or a whole number")
        return value
