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

import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from torch import nn
from torch.utils.data import DataLoader

from mdp_core.api import Context, StageError
from mdp_mmengine.checkpoints import Checkpoint, newest
from mdp_mmengine.draws import Batches, Draws, own_random_states, seed_everything, seed_of
from mdp_mmengine.hooks import CheckpointHook, LogHook, SeedHook
from mdp_mmengine.launch import Place, agree, join
from mdp_mmengine.models import Scope, build_model
from mdp_mmengine.precise_bn import precise_bn
from mdp_mmengine.runner import DrawLoop, TrainRunner
from mdp_mmengine.schedule import Amp, Schedule, optim_wrapper, schedulers
from mdp_mmengine.snapshots import SnapshotHook, Snapshots, gather

__all__ = ["LOG_NAME", "Amp", "Samples", "Schedule", "train"]

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


@contextmanager
def _mmengine_leaves_no_trace() -> Iterator[None]:
    """Puts back what MMEngine's Runner sets for the whole process: OpenCV's threads, and how processes are started."""
    threads, method = cv2.getNumThreads(), multiprocessing.get_start_method(allow_none=True)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
        multiprocessing.set_start_method(method, force=True)


@own_random_states()
@_mmengine_leaves_no_trace()
def train(
    config: Mapping[str, Any] | Callable[[], nn.Module],
    scope: Scope,
    samples: Samples,
    schedule: Schedule,
    *,
    context: Context,
    folder: Path,
    work: Path,
    prepare: Callable[[nn.Module], None] | None = None,
    snapshots: Snapshots | None = None,
) -> nn.Module:
    """Trains a model, or goes on with the training whose checkpoint lies in ``work``.

    Args:
        config: The model's configuration (JSON values), or what makes the model; then no initialisation is run.
        scope: MM library in whose registry the model is built.
        samples: The training samples.
        schedule: Iterations, optimizer, checkpoints.
        context: Seed, device, listener.
        folder: The model's folder; ``training.jsonl`` is written there at the end.
        work: Scratch folder that survives a crash.
        prepare: Changes the freshly initialised model, for example loads a backbone. Not called on resume.
        snapshots: States of the training that are kept in the model's folder beside the last one.

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
    model = config() if callable(config) else build_model(config, scope, initialise=checkpoint is None)
    if checkpoint is not None:
        model.load_state_dict(checkpoint.model, strict=True)
    elif prepare is not None:
        prepare(model)
    log = LogHook(work / LOG_NAME if place.main else None, context.listener, start)
    hooks = [SnapshotHook(work, snapshots)] if snapshots is not None and place.main else []
    try:
        _runner(
            model,
            scope,
            samples,
            schedule,
            seed=context.seed,
            place=place,
            checkpoint=checkpoint,
            work=work,
            hooks=[log, *hooks],
        ).train()
    finally:
        log.close()
    if schedule.precise_bn:
        _precise_bn(model, samples, schedule, context, place)
    if place.main:
        shutil.copyfile(work / LOG_NAME, folder / LOG_NAME)
        gather(work, folder)
    return model


def _precise_bn(model: nn.Module, samples: Samples, schedule: Schedule, context: Context, place: Place) -> None:
    """Estimates statistics on batches as they would have come next; seeded, so that a second attempt ends the same."""
    model.train()
    seed_everything(seed_of(context.seed, "precise-bn", place.rank))
    last = schedule.iterations + schedule.precise_bn
    batches = _loader(samples, schedule, context.seed, place, schedule.iterations, last)
    layers = precise_bn(model, batches, lambda batch: model(**model.data_preprocessor(batch, True), mode="loss"))
    context.listener.note("precise batch norm", f"{layers} layers, {schedule.precise_bn if layers else 0} batches")


def _loader(samples: Samples, schedule: Schedule, seed: int, place: Place, start: int, stop: int) -> DataLoader[Any]:
    return DataLoader(
        Draws(samples.count, samples.load, seed=seed, total=stop * schedule.batch),
        batch_sampler=Batches(schedule.batch, start, stop, rank=place.rank, world=place.world),
        num_workers=schedule.workers,
        collate_fn=samples.collate,
    )


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
    hooks: Sequence[Hook],
) -> TrainRunner:
    name = f"mdp_{time.time_ns()}"
    start = checkpoint.iteration if checkpoint else 0
    return TrainRunner(
        place,
        checkpoint,
        model=model,
        work_dir=str(work / "mmengine"),
        train_dataloader=_loader(samples, schedule, seed, place, start, schedule.iterations),
        train_cfg={"type": DrawLoop, "max_iters": schedule.iterations},
        optim_wrapper=optim_wrapper(schedule, place.device),
        param_scheduler=schedulers(schedule),
        default_hooks=dict.fromkeys(("timer", "sampler_seed", "logger", "checkpoint")),
        custom_hooks=[
            SeedHook(seed, place.rank),
            *hooks,
            CheckpointHook(work / "checkpoints" if place.main else None, schedule.checkpoint_every),
        ],
        launcher="pytorch" if place.world > 1 else "none",
        randomness={"seed": seed_of(seed, "runner") % 2**32},
        visualizer={"type": "Visualizer", "name": name, "vis_backends": []},
        log_level="WARNING",
        default_scope=scope,
        experiment_name=name,
    )
