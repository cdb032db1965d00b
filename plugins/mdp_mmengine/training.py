"""Training of an MM model: one function, resumable at any moment, exact.

How a plugin calls it::

    import mmdet.models                                  # registers the parts of the model (or mmseg.models)

    model = train(
        config,                                          # dict(type="MaskRCNN", …), plain JSON values
        "mmdet",                                         # whose registry
        Samples(n, load, collate),                       # load(i) -> one augmented sample, e.g. {"inputs", "data_samples"}
        Schedule(iterations=2400, batch=16, lr=0.02, steps=(2000, 2200), warmup=100),
        context=self.context, folder=folder, work=work,
        prepare=lambda model: load_resnet({"": model.backbone}, "timm:resnet50", self.context.listener),
    )
    publish(folder, model, Published("mmdet", config, {"clusters": clusters}))   # weights.py

``train`` seeds, builds the model from ``config``, runs its own initialisation, then ``prepare``. If ``work`` holds a
checkpoint it goes on from there instead, and ends with the very tensors of an undisturbed training (bit for bit on a
CPU with the same number of threads). ``load`` may use the random states of Python, numpy and torch: they are seeded by
(seed, number of the draw). It returns the trained module on the context's device. Every iteration is reported to
``context.listener.progress(iteration, iterations, {"lr": …, "loss": …, …})`` and written to ``folder/training.jsonl``.
Under torchrun every process calls ``train`` (and ``publish``) alike; ``Schedule.batch`` counts all devices together.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.dataset import pseudo_collate
from torch import nn
from torch.utils.data import DataLoader

from mdp_core.api import Context, StageError
from mdp_mmengine.checkpoints import Checkpoint, newest
from mdp_mmengine.draws import Batches, Draws, seed_everything, seed_of
from mdp_mmengine.hooks import CheckpointHook, LogHook, SeedHook
from mdp_mmengine.launch import Place, agree, join
from mdp_mmengine.models import Scope, build_model
from mdp_mmengine.runner import DrawLoop, TrainRunner

__all__ = ["LOG_NAME", "Amp", "Samples", "Schedule", "train"]

Amp = Literal["off", "bf16", "fp16"]
LOG_NAME = "training.jsonl"


@dataclass(frozen=True)
class Samples:
    """The training samples.

    Attributes:
        count: How many, n ≥ 1.
        load: Makes sample 0..n-1, augmented. Called in loader workers; must depend on its index and random states alone.
        collate: Makes a batch of a list of samples; by default MMEngine's, which leaves tensors of a batch in a list.
    """

    count: int
    load: Callable[[int], Any]
    collate: Callable[[list[Any]], Any] = pseudo_collate


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


def train(
    config: Mapping[str, Any],
    scope: Scope,
    samples: Samples,
    schedule: Schedule,
    *,
    context: Context,
    folder: Path,
    work: Path,
    prepare: Callable[[nn.Module], None] | None = None,
) -> nn.Module:
    """Trains a model, or goes on with the training whose checkpoint lies in ``work``.

    Args:
        config: The model's configuration (JSON values).
        scope: MM library in whose registry the model is built.
        samples: The training samples.
        schedule: Iterations, optimizer, checkpoints.
        context: Seed, device, listener.
        folder: The model's folder; ``training.jsonl`` is written there at the end.
        work: Scratch folder that survives a crash.
        prepare: Changes the freshly initialised model, for example loads a backbone. Not called on resume.

    Returns:
        The trained model, in training mode, on the context's device.

    Raises:
        StageError: The loss is not finite; the batch cannot be shared by the devices; the model cannot be built.
    """
    place = join(context.device)
    if schedule.batch % place.world:
        raise StageError(
            f"batch {schedule.batch} cannot be shared by {place.world} devices", hint=f"make it a multiple of {place.world}"
        )
    checkpoint = newest(work / "checkpoints")
    start = checkpoint.iteration if checkpoint else 0
    agree(place, start)
    seed_everything(seed_of(context.seed, "model"))
    model = build_model(config, scope, initialise=checkpoint is None)
    if checkpoint is not None:
        model.load_state_dict(checkpoint.model, strict=True)
    elif prepare is not None:
        prepare(model)
    log = LogHook(work / LOG_NAME if place.main else None, context.listener, start)
    try:
        _runner(
            model, scope, samples, schedule, seed=context.seed, place=place, checkpoint=checkpoint, work=work, log=log
        ).train()
    finally:
        log.close()
    if place.main:
        shutil.copyfile(work / LOG_NAME, folder / LOG_NAME)
    return model


def _runner(
    model: nn.Module,
    scope: Scope,
    samples: Samples,
    schedule: Schedule,
    *,
    seed: int,
    place: Place,
    checkpoint: Checkpoint | None,
    work: Path,
    log: LogHook,
) -> TrainRunner:
    name = f"mdp_{time.time_ns()}"
    start = checkpoint.iteration if checkpoint else 0
    loader: DataLoader[Any] = DataLoader(
        Draws(samples.count, samples.load, seed=seed, total=schedule.iterations * schedule.batch),
        batch_sampler=Batches(schedule.batch, start, schedule.iterations, rank=place.rank, world=place.world),
        num_workers=schedule.workers,
        collate_fn=samples.collate,
    )
    return TrainRunner(
        place,
        checkpoint,
        model=model,
        work_dir=str(work / "mmengine"),
        train_dataloader=loader,
        train_cfg={"type": DrawLoop, "max_iters": schedule.iterations},
        optim_wrapper=_optim_wrapper(schedule, place.device),
        param_scheduler=_schedulers(schedule),
        default_hooks=dict.fromkeys(("timer", "sampler_seed", "logger", "checkpoint")),
        custom_hooks=[
            SeedHook(seed, place.rank),
            log,
            CheckpointHook(work / "checkpoints" if place.main else None, schedule.checkpoint_every),
        ],
        launcher="pytorch" if place.world > 1 else "none",
        randomness={"seed": seed_of(seed, "runner") % 2**32},
        visualizer={"type": "Visualizer", "name": name, "vis_backends": []},
        log_level="WARNING",
        default_scope=scope,
        experiment_name=name,
    )


def _optim_wrapper(schedule: Schedule, device: torch.device) -> dict[str, Any]:
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


def _schedulers(schedule: Schedule) -> list[dict[str, Any]]:
    schedulers: list[dict[str, Any]] = []
    warmup = min(schedule.warmup, schedule.iterations // 2)
    if warmup:
        schedulers.append({"type": "LinearLR", "start_factor": 0.001, "by_epoch": False, "begin": 0, "end": warmup})
    milestones = [step for step in schedule.steps if step < schedule.iterations]
    schedulers.append({"type": "MultiStepLR", "by_epoch": False, "milestones": milestones, "gamma": schedule.gamma})
    return schedulers
