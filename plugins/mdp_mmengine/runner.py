"""MMEngine's Runner and iteration loop, with the few changes that exact resume and our own files ask for."""

from __future__ import annotations

from typing import Any

from mmengine.model import MMDistributedDataParallel
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from mdp_mmengine.checkpoints import Checkpoint
from mdp_mmengine.launch import Place
from mdp_mmengine.models import without_sync

__all__ = ["DrawLoop", "TrainRunner"]


class DrawLoop(IterBasedTrainLoop):
    """The iteration loop without skipping: the loader already starts at the iteration to resume at."""

    def run(self) -> nn.Module:
        """Trains from the current iteration to the last."""
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        while self._iter < self._max_iters:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model


class TrainRunner(Runner):
    """A Runner that trains an initialised model on a given device and resumes from our own checkpoint.

    Args:
        place: Device and rank.
        checkpoint: State to resume from, or None.
        **settings: Arguments of MMEngine's Runner.
    """

    def __init__(self, place: Place, checkpoint: Checkpoint | None, **settings: Any) -> None:
        self.place, self.checkpoint = place, checkpoint
        super().__init__(**settings)

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """Moves the model to the device (MMEngine would take a GPU wherever there is one) and wraps it for several."""
        if self.place.world == 1 or self.place.device.type == "cpu":
            model = without_sync(model)
        model = model.to(self.place.device)
        if self.place.world == 1:
            return model
        ids = [self.place.device.index] if self.place.device.type == "cuda" else None
        return MMDistributedDataParallel(module=model, device_ids=ids, broadcast_buffers=False)

    def _init_model_weights(self) -> None:
        """The model comes initialised."""

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        """The run records its environment elsewhere; MMEngine would start compilers to ask for their versions."""

    def load_or_resume(self) -> None:
        """Restores optimizer, schedulers and the iteration count (the model was restored when it was built)."""
        if self.checkpoint is None:
            return
        self.optim_wrapper.load_state_dict(self.checkpoint.optimizer)
        for scheduler, state in zip(self.param_schedulers, self.checkpoint.schedulers, strict=True):
            scheduler.load_state_dict(state)
        self.train_loop._iter = self.checkpoint.iteration
