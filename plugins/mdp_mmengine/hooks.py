"""What happens around each training iteration: seeds before it; the log, the listener and the checkpoint after it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mdp_core.api import Listener, StageError
from mdp_mmengine.checkpoints import Checkpoint, save
from mdp_mmengine.draws import seed_everything, seed_of
from mdp_mmengine.launch import average

__all__ = ["CheckpointHook", "LogHook", "SeedHook"]


class SeedHook(Hook):
    """Seeds all random states by (seed, iteration, rank), so that dropout and RoI sampling survive a resume."""

    def __init__(self, seed: int, rank: int) -> None:
        self.seed, self.rank = seed, rank

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seeds; the iteration's data are already loaded, with their own seeds."""
        seed_everything(seed_of(self.seed, "iteration", runner.iter, self.rank))


class LogHook(Hook):
    """Writes one JSON line an iteration, reports to the listener, and stops a training whose loss is not finite.

    Losses are means over all processes, so that the log tells of the whole batch, and all stop together.

    Args:
        path: The log, kept in the work folder so that it survives a crash; None: this process only checks the loss.
        listener: Hears ``progress(iteration, total, losses)``, iterations counted from 1.
        start: Iteration resumed at; later lines of an earlier attempt are dropped.
    """

    priority = "NORMAL"  # before the schedulers' step: the rate told is the one that was used

    def __init__(self, path: Path | None, listener: Listener, start: int) -> None:
        self.path, self.listener = path, listener
        if path is not None:
            _truncate(path, start)
        self._file = path.open("a", encoding="utf-8") if path is not None else None

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Logs the losses of the iteration just done; its learning rate is the one it was done with."""
        iteration = runner.iter + 1
        losses = average({name: float(value.detach()) for name, value in (outputs or {}).items()})
        bad = [f"{name} = {value}" for name, value in losses.items() if "loss" in name and not math.isfinite(value)]
        if bad:
            self.close()
            raise StageError(
                f"the loss is not finite at iteration {iteration} of {runner.max_iters}: {', '.join(bad)}",
                hint="lower the learning rate (fit.lr), lengthen the warm-up or set fit.clip_grad",
            )
        if self._file is None:
            return
        metrics = {"lr": float(runner.optim_wrapper.get_lr()["lr"][0]), **losses}
        self._file.write(json.dumps({"iteration": iteration, **metrics}) + "\n")
        self._file.flush()
        self.listener.progress(iteration, runner.max_iters, metrics)

    def close(self) -> None:
        """Closes the log."""
        if self._file is not None:
            self._file.close()


class CheckpointHook(Hook):
    """Saves a resume file every ``every`` iterations and after the last; it runs after the schedulers' step.

    Args:
        folder: Where the files lie; None: this process saves nothing.
        every: Iterations between two files.
    """

    priority = "LOWEST"

    def __init__(self, folder: Path | None, every: int) -> None:
        self.folder, self.every = folder, every

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Saves where it is time."""
        iteration = runner.iter + 1
        if self.folder is None or (iteration % self.every and iteration != runner.max_iters):
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        schedulers = [scheduler.state_dict() for scheduler in runner.param_schedulers]
        save(self.folder, Checkpoint(iteration, model.state_dict(), runner.optim_wrapper.state_dict(), schedulers))


def _truncate(path: Path, iterations: int) -> None:
    """Keeps the lines of the first ``iterations`` iterations, and no line that a crash cut short."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["iteration"] <= iterations:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):
            break
    path.write_text("".join(kept), encoding="utf-8")
