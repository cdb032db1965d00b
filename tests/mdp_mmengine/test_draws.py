import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mdp_mmengine.draws import Batches, Draws, own_random_states, seed_everything, seed_of


def drawn(sample: int) -> tuple[int, float, float, float]:
    return sample, random.random(), float(np.random.rand()), float(torch.rand(()))


def collect(draws: Draws, batches: Batches, workers: int) -> list[tuple[int, float, float, float]]:
    loader = DataLoader(draws, batch_sampler=batches, num_workers=workers, collate_fn=list)
    return [item for batch in loader for item in batch]


@given(samples=st.integers(1, 30), seed=st.integers(0, 2**40), epochs=st.integers(1, 4))
def test_every_epoch_shows_every_sample_once(samples: int, seed: int, epochs: int) -> None:
    draws = Draws(samples, drawn, seed=seed, total=samples * epochs)
    shown = [draws.sample_of(p) for p in range(len(draws))]
    for epoch in range(epochs):
        assert sorted(shown[epoch * samples : (epoch + 1) * samples]) == list(range(samples))


def test_epochs_differ_and_seeds_differ() -> None:
    orders = {
        tuple(Draws(20, drawn, seed=s, total=60).sample_of(e * 20 + i) for i in range(20)) for s in (0, 1) for e in (0, 1)
    }
    assert len(orders) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_loader_sees_what_the_undisturbed_one_sees(workers: int) -> None:
    undisturbed = collect(Draws(7, drawn, seed=5, total=24), Batches(4, 0, 6), 0)
    resumed = collect(Draws(7, drawn, seed=5, total=24), Batches(4, 2, 6), workers)
    assert resumed == undisturbed[8:]
    assert len({item[1] for item in undisturbed}) == 24


@given(world=st.integers(1, 4), share=st.integers(1, 4), start=st.integers(0, 3), more=st.integers(0, 3))
def test_devices_share_each_batch(world: int, share: int, start: int, more: int) -> None:
    batch, stop = world * share, start + more
    ranks = [list(Batches(batch, start, stop, rank=r, world=world)) for r in range(world)]
    for step in range(more):
        together = [draw for rank in ranks for draw in rank[step]]
        assert together == list(range((start + step) * batch, (start + step + 1) * batch))


def test_batch_must_be_divisible() -> None:
    with pytest.raises(ValueError, match="cannot be shared"):
        Batches(3, 0, 1, world=2)


def test_what_draws_inside_is_not_noticed_outside() -> None:
    seed_everything(3)
    undisturbed = [drawn(0) for _ in range(4)]
    seed_everything(3)
    assert drawn(0) == undisturbed[0]
    with own_random_states():
        seed_everything(7)
        drawn(0)
    assert drawn(0) == undisturbed[1]
    with pytest.raises(ZeroDivisionError), own_random_states():
        drawn(0)[0] / 0
    assert [drawn(0), drawn(0)] == undisturbed[2:]


def test_seed_of_is_stable_and_separates() -> None:
    assert seed_of(1, "draw", 2) == seed_of(1, "draw", 2) < 2**63
    assert len({seed_of(a, b) for a in range(20) for b in range(20)}) == 400
