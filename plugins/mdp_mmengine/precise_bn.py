"""Precise batch normalisation: statistics of many batches in place of the moving average (Wu & Johnson 2021, §3).

The running statistics of batch normalisation are an exponential average over the last few dozen batches, each seen by a
network that has changed since. Here the final network sees many batches, and the statistics of all of them together are
kept (https://arxiv.org/abs/2105.07576; Detectron2's ``PRECISE_BN``, which MoCo's detection configuration switches on).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["precise_bn"]


class _Population:
    """Mean and variance of all that one layer has seen, from the statistics of each batch."""

    def __init__(self, layer: _BatchNorm) -> None:
        self.layer = layer
        self.count = 0.0
        self.mean = torch.zeros_like(layer.running_mean, dtype=torch.float64)
        self.square = torch.zeros_like(self.mean)
        self.momentum, layer.momentum = layer.momentum, 1.0  # the running statistics are then those of the last batch
        self.hook = layer.register_forward_hook(self._seen)

    def _seen(self, layer: nn.Module, inputs: tuple[Tensor, ...], _: Any) -> None:
        """Adds one batch; a layer that is called several times in a forward sees several."""
        count = inputs[0].numel() // inputs[0].shape[1]
        if isinstance(layer, nn.SyncBatchNorm) and dist.is_initialized():
            count *= dist.get_world_size()
        mean, variance = self.layer.running_mean.double(), self.layer.running_var.double()
        # running_var is the unbiased variance; the mean of squares needs the biased one.
        self.square += count * (mean.square() + variance * (count - 1) / count)
        self.mean += count * mean
        self.count += count

    def close(self) -> None:
        self.hook.remove()
        self.layer.momentum = self.momentum

    def write(self) -> None:
        count = torch.tensor([self.count], dtype=torch.float64, device=self.mean.device)
        if dist.is_initialized() and dist.get_world_size() > 1:
            for part in (count, self.mean, self.square):
                dist.all_reduce(part)
        if not count.item():  # never called
            return
        mean = self.mean / count
        self.layer.running_mean.copy_(mean)
        self.layer.running_var.copy_((self.square / count - mean.square()).clamp_min(0))


@torch.no_grad()
def precise_bn(model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any]) -> int:
    """Replaces running statistics by those of all elements of the batches; weights stay as they are.

    Layers in evaluation mode (frozen ones) and layers without running statistics are left alone. On several devices the
    statistics are those of all devices' batches together.

    Args:
        model: In the mode in which it trains.
        batches: Training batches.
        forward: Sends one batch through the model.

    Returns:
        Number of layers whose statistics were replaced; 0 reads no batch.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    layers = [layer for layer in layers if layer.training and layer.track_running_stats]
    if not layers:
        return 0
    before = [(layer.running_mean.clone(), layer.running_var.clone(), layer.num_batches_tracked.clone()) for layer in layers]
    seen: list[_Population] = []
    try:
        seen += [_Population(layer) for layer in layers]
        for batch in batches:
            forward(batch)
    finally:
        for population in seen:
            population.close()
    for layer, (mean, variance, tracked) in zip(layers, before, strict=True):
        layer.running_mean.copy_(mean)  # what a layer keeps that no batch reached
        layer.running_var.copy_(variance)
        layer.num_batches_tracked.copy_(tracked)
    for population in seen:
        population.write()
    return len(layers)
