"""Settings of the core's executors. None of them changes a result."""

from __future__ import annotations

from pydantic import Field

from mdp_core.settings import StageConfig


class SerialConfig(StageConfig):
    """There is nothing to set."""


class ProcessConfig(StageConfig):
    """How many processes share the work."""

    workers: int | None = Field(None, ge=1)
    """Processes that share the shards of a step; default: one a GPU, without GPUs one a core."""
    train_workers: int | None = Field(None, ge=1)
    """Processes that do a training together, where its plugin can; the batch is divided among them. Default: one a GPU, without
    GPUs one."""
