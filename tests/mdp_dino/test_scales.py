"""Resampling between grids of patches, and features of several scales side by side."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mdp_dino.scales import Views, resampled, resampling, scaled, side_by_side, spread


@given(st.integers(1, 30), st.integers(1, 60), st.floats(0.05, 8))
def test_weights_are_positive_and_add_up_to_one(to, of, ratio):
    weights = resampling(to, of, ratio)
    assert weights.shape == (to, of)
    assert (weights >= 0).all()
    assert weights.sum(dim=1).numpy() == pytest.approx(np.ones(to), abs=1e-5)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))
def test_grids_that_cover_the_same_area_are_resampled_as_pillow_does(rows, columns, tall, wide):
    generator = torch.Generator().manual_seed(rows + 13 * columns)
    values = torch.randn(rows, columns, 3, generator=generator)
    found = resampled(values.flatten(0, 1), (rows, columns), (tall, wide), (rows / tall, columns / wide))
    for channel in range(3):
        plane = Image.fromarray(values[..., channel].numpy()).resize((wide, tall), Image.BILINEAR)
        np.testing.assert_allclose(found[:, channel].reshape(tall, wide), np.asarray(plane), atol=1e-4)


def test_the_same_grid_changes_nothing():
    values = torch.randn(12, 5)
    assert resampled(values, (3, 4), (3, 4), (1.0, 1.0)) is values
    assert torch.equal(resampling(7, 7, 1.0), torch.eye(7))
    assert torch.equal(resampling(3, 1, 0.5), torch.ones(3, 1))


def test_what_lies_where_stays_there_beyond_the_padding():
    """A ramp of 90 pixels, patches of 8: 12 patches with 6 pixels of padding, at half the size 6 with 3."""
    for factor, cells in ((0.5, 6), (2.0, 23), (1.5, 17)):
        there = (torch.arange(cells) + 0.5) * 8 / factor  # where the centres of patches lie at scale 1
        found = resampled(there[:, None], (1, cells), (1, 12), (1.0, factor))[:, 0]
        wanted = ((torch.arange(12) + 0.5) * 8).clamp(max=float(there[-1]), min=float(there[0]))
        inner = slice(1, 10)
        torch.testing.assert_close(found[inner], wanted[inner], atol=0.2, rtol=0)  # pixels; a triangle of few cells is lopsided


@given(seed=st.integers(0, 999), centred=st.booleans(), by=st.floats(0.01, 100))
def test_every_scale_has_the_same_say(seed, centred, by):
    generator = torch.Generator().manual_seed(seed)
    one, two = (torch.randn(20, 6, generator=generator) + 2 for _ in range(2))
    prefix = [torch.randn(1, 6, generator=generator) for _ in range(2)]
    values, query = side_by_side([one, two], prefix, centred=centred)
    assert values.shape == (20, 12)
    assert query.shape == (1, 12)
    around = values - values.mean(dim=0) if centred else values
    for half in around.chunk(2, dim=1):
        assert float(half.square().sum(dim=1).mean()) == pytest.approx(1, rel=1e-4)
    affinities = around @ around.T  # the sum over the scales of each one's own, divided by its mean on the diagonal
    literal = torch.zeros(20, 20)
    for own in (one, two):
        table = (own - own.mean(dim=0)) @ (own - own.mean(dim=0)).T if centred else own @ own.T
        literal += table / table.diagonal().mean()
    torch.testing.assert_close(affinities, literal, atol=1e-4, rtol=1e-4)
    longer, _ = side_by_side([one, two * by], [prefix[0], prefix[1] * by], centred=centred)
    torch.testing.assert_close(longer, values, atol=1e-3, rtol=1e-3)


def test_one_scale_stays_as_it_is_and_zero_is_not_divided():
    values, prefix = torch.randn(4, 3), torch.randn(1, 3)
    assert side_by_side([values], [prefix], centred=True)[0] is values
    assert spread(torch.zeros(4, 3), centred=False) == 1
    assert spread(torch.ones(4, 3), centred=True) == 1
    assert torch.isfinite(side_by_side([values * 0, values], [prefix, prefix], centred=True)[0]).all()


def test_sizes():
    assert scaled((100, 151), 0.5) == (50, 76)
    assert scaled((1, 3), 0.25) == (1, 1)
    pictures = tuple(np.zeros((8 * n, 16 * n, 3), np.uint8) for n in (1, 2))
    views = Views(pictures[0], (7, 15), pictures, ((7, 15), (14, 30)))
    assert views.shape == (8, 16, 3, 8, 16, 3, 16, 32, 3)
    assert views.largest == 512
