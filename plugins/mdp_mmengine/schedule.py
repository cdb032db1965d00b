"""How long and with which SGD to train, and what MMEngine makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mdp_mmengine.settings import MapTraining

__all__ = ["Amp", "Schedule", "map_schedule", "optim_wrapper", "schedulers"]

Amp = Literal["off", "bf16", "fp16"]


@dataclass(frozen=True)
class Schedule:
    """How long and with which SGD to train.

    Attributes:
        iterations: Iterations in all.
        batch: Samples an iteration, over all devices.
        lr: Learning rate after warm-up.
        momentum: SGD momentum.
        weight_decay: L2 weight decay.
        steps: Iterations after which the rate is multiplied by ``gamma``; those beyond the end do nothing.
        gamma: See ``steps``.
        warmup: Iterations of linear warm-up from lr/1000; at most half of the training is spent on it.
        paramwise: MMEngine's ``paramwise_cfg``, for example ``{"custom_keys": {"decode_head": {"lr_mult": 10}}}``.
        clip_grad: Largest gradient norm; None: no clipping.
        amp: Mixed precision; on CUDA only, a CPU trains in float32.
        checkpoint_every: Iterations between two resume files.
        workers: Loader processes (no effect on the result).
        precise_bn: Batches, drawn after those of the training, whose statistics replace the running ones of batch
            normalisation at the end; 0: the running ones stay.
    """

    iterations: int
    batch: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 1e-4
    steps: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup: int = 0
    paramwise: Mapping[str, Any] | None = None
    clip_grad: float | None = None
    amp: Amp = "off"
    checkpoint_every: int = 500
    workers: int = 0
    precise_bn: int = 0


def map_schedule(fit: MapTraining, images: int) -> Schedule:
    """Returns the schedule of a training on so many images and their label maps."""
    total = fit.length(images)
    drop = fit.drop_at(total)
    return Schedule(
        iterations=total,
        batch=fit.batch,
        lr=fit.lr,
        momentum=fit.momentum,
        weight_decay=fit.weight_decay,
        steps=() if drop is None else (drop,),
        gamma=fit.lr_gamma,
        checkpoint_every=fit.checkpoint_every,
        workers=fit.workers,
    )


def optim_wrapper(schedule: Schedule, device: torch.device) -> dict[str, Any]:
    """Returns MMEngine's configuration of the optimizer: SGD, with mixed precision on CUDA alone."""
    wrapper: dict[str, Any] = {
        "type": "OptimWrapper",
        "optimizer": {
            "type": "SGD",
            "lr": schedule.lr,
            "momentum": schedule.momentum,
            "weight_decay": schedule.weight_decay,
        },
    }
    if schedule.paramwise:
        wrapper["paramwise_cfg"] = dict(schedule.paramwise)
    if schedule.clip_grad is not None:
        wrapper["clip_grad"] = {"max_norm": schedule.clip_grad}
    if schedule.amp != "off" and device.type == "cuda":
        wrapper["type"] = "AmpOptimWrapper"
        wrapper["dtype"] = "bfloat16" if schedule.amp == "bf16" else "float16"
        wrapper["loss_scale"] = "dynamic" if schedule.amp == "fp16" else {"enabled": False}
    return wrapper


def schedulers(schedule: Schedule) -> list[dict[str, Any]]:
    """Returns MMEngine's configurations of the learning rate: a linear warm-up, then steps."""
    made: list[dict[str, Any]] = []
    warmup = min(schedule.warmup, schedule.iterations // 2)
    if warmup:
        made.append({"type": "LinearLR", "start_factor": 0.001, "by_epoch": False, "begin": 0, "end": warmup})
    milestones = [step for step in schedule.steps if step < schedule.iterations]
    made.append({"type": "MultiStepLR", "by_epoch": False, "milestones": milestones, "gamma": schedule.gamma})
    return made
