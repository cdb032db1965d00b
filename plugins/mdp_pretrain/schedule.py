"""What each iteration of a training gets: its images, its seed, its learning rate, temperature and momentum."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mdp_pretrain.settings import DinoConfig, TrainConfig


def image_order(count: int, batch: int, seed: int) -> Callable[[int], Tensor]:
    """Returns which images, int64 (batch,), each iteration sees: one random order an epoch, end to end."""
    orders: dict[int, Tensor] = {}

    def order(epoch: int) -> Tensor:
        if epoch not in orders:
            for old in [known for known in orders if known < epoch - 1]:
                del orders[old]
            orders[epoch] = torch.randperm(count, generator=torch.Generator().manual_seed(seed_of(seed, epoch, -1)))
        return orders[epoch]

    def at(iteration: int) -> Tensor:
        places = torch.arange(iteration * batch, (iteration + 1) * batch)
        return torch.stack([order(int(place) // count)[int(place) % count] for place in places])

    return at


def seed_of(seed: int, number: int, rank: int) -> int:
    """Returns one 63-bit seed of three numbers."""
    return int(np.random.SeedSequence([seed, number, rank + 1]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def learning_rate(config: DinoConfig, iteration: int) -> float:
    """Learning rate of an iteration: a straight line up, then half a cosine down."""
    train = config.train
    warmup = round(train.warmup * train.iters)
    if iteration < warmup:
        return train.lr * (iteration + 1) / warmup
    return cosine(train.lr, train.lr_end, (iteration - warmup) / max(train.iters - 1 - warmup, 1))


def temperature_at(config: TrainConfig, progress: float) -> float:
    """The teacher's temperature at ``progress`` in [0, 1]: a straight line during the warm-up, then constant."""
    start, end = config.teacher_temperature
    return end if progress >= config.teacher_warmup else start + (end - start) * progress / config.teacher_warmup


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from ``start`` (progress 0) to ``end`` (progress 1)."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
