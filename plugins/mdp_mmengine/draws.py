"""Draws: the training samples of a whole run, laid out so that any of them can be made without making those before it.

Draw p (0 ≤ p < iterations · batch) is training sample ``permutation(seed, p // n)[p % n]``, transformed with random
states seeded by (seed, p). Hence a run resumed at iteration i sees exactly what the undisturbed run sees, with any number
of loader workers, and reads nothing twice.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

__all__ = ["Batches", "Draws", "own_random_states", "seed_everything", "seed_of"]


def seed_of(*parts: int | str) -> int:
    """Returns a seed in [0, 2^63) that is a hash of ``parts``: the same everywhere, unrelated for neighbouring parts."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_everything(seed: int) -> None:
    """Seeds the random states of Python, numpy (global) and torch (all devices) with ``seed`` in [0, 2^63)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (MMEngine's transforms draw from numpy's global state)
    torch.manual_seed(seed)


@contextmanager
def own_random_states() -> Iterator[None]:
    """Lets what is inside draw from the global random states and seed them; what comes after finds them as they were.

    Of several GPUs it is the current one whose state is kept.
    """
    python, legacy = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


class Draws(Dataset[Any]):
    """The draws of one training run.

    Args:
        samples: Number of training samples n ≥ 1.
        load: Makes sample ``index`` in 0..n-1, augmented; may use the random states of Python, numpy and torch.
        seed: The run's seed.
        total: Number of draws: iterations · batch (the sum over all devices).
    """

    metainfo: dict[str, Any] = {}  # noqa: RUF012  (MMEngine asks every dataset for it)

    def __init__(self, samples: int, load: Callable[[int], Any], *, seed: int, total: int) -> None:
        if samples < 1:
            raise ValueError("a training run needs at least one sample")
        self.samples, self.load, self.seed, self.total = samples, load, seed, total
        self._permutation: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return self.total

    def sample_of(self, draw: int) -> int:
        """Returns which sample draw number ``draw`` shows; every n consecutive draws from a multiple of n show each once."""
        epoch, position = divmod(draw, self.samples)
        if self._permutation is None or self._permutation[0] != epoch:
            order = np.random.default_rng(seed_of(self.seed, "epoch", epoch)).permutation(self.samples)
            self._permutation = epoch, order
        return int(self._permutation[1][position])

    def __getitem__(self, draw: int) -> Any:
        seed_everything(seed_of(self.seed, "draw", draw))
        return self.load(self.sample_of(draw))


class Batches(Sampler[list[int]]):
    """Yields the draws of each remaining iteration, this device's share of them.

    Args:
        batch: Draws an iteration, all devices together; a multiple of ``world``.
        start: First iteration (the one to resume at).
        stop: Iterations of the whole run.
        rank: This device of ``world`` devices.
        world: Number of devices.
    """

    def __init__(self, batch: int, start: int, stop: int, *, rank: int = 0, world: int = 1) -> None:
        if batch % world:
            raise ValueError(f"batch {batch} cannot be shared by {world} devices")
        self.batch, self.start, self.stop, self.rank, self.world = batch, start, stop, rank, world

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch // self.world
        for iteration in range(self.start, self.stop):
            first = iteration * self.batch + self.rank * share
            yield list(range(first, first + share))
