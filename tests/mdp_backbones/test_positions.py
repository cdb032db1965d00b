"""Learnt positions on other grids, tap by tap."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer

from mdp_backbones.positions import resample_positions
from mdp_backbones.random_vit import random_vit
from mdp_backbones.vit import VitReader
from mdp_backbones.weights import load_backbone, load_vit
from mdp_core.api import Context

SIDES = st.tuples(st.integers(1, 20), st.integers(1, 20))


def cubic(t: float, a: float = -0.75) -> float:
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def taps(old: int, new: int, factor: float) -> np.ndarray:
    """The matrix (new, old): pixel i lies at (i + ½) / factor - ½, four taps, borders repeated."""
    matrix = np.zeros((new, old))
    for i in range(new):
        at = (i + 0.5) / factor - 0.5
        for tap in range(math.floor(at) - 1, math.floor(at) + 3):
            matrix[i, min(max(tap, 0), old - 1)] += cubic(at - tap)
    return matrix


@settings(deadline=None)
@given(side=st.integers(1, 14), new=SIDES, prefix=st.integers(0, 3), rule=st.sampled_from(["size", "scale-factor"]))
def test_equals_taps_one_by_one(side, new, prefix, rule):
    embedding = np.random.default_rng(0).normal(size=(1, prefix + side * side, 3))
    offset = 0.1 if rule == "scale-factor" else 0.0
    down, across = (taps(side, cells, (cells + offset) / side) for cells in new)
    grid = np.einsum("ri,cj,ijd->rcd", down, across, embedding[0, prefix:].reshape(side, side, 3)).reshape(-1, 3)
    found = resample_positions(torch.from_numpy(embedding), (side, side), new, prefix, antialias=False, rule=rule)
    assert np.array_equal(found[0, :prefix], embedding[0, :prefix])
    if new == (side, side):
        assert np.array_equal(found, embedding)
    else:
        np.testing.assert_allclose(found[0, prefix:], grid, atol=2e-5)


def test_rectangular_grids_keep_their_sides_apart_and_types_stay():
    embedding = torch.randn(1, 1 + 6, 4, dtype=torch.bfloat16)
    found = resample_positions(embedding, (2, 3), (5, 4), 1, antialias=True, rule="scale-factor")
    assert found.shape == (1, 21, 4)
    assert found.dtype == torch.bfloat16
    assert resample_positions(embedding, (2, 3), (2, 3), 1, antialias=True, rule="scale-factor") is embedding


def test_the_rules_differ_by_about_a_tenth_of_a_cell_at_most():
    ramp = torch.arange(14.0).repeat(14, 1)[..., None].reshape(1, -1, 1)
    size, factor = (
        resample_positions(ramp, (14, 14), (14, 40), 0, antialias=False, rule=rule).reshape(14, 40)[7]
        for rule in ("size", "scale-factor")
    )
    moved = (size - factor)[2:-2] * 40 / 14
    assert 0.08 < moved.max() < 0.12  # the kernel bends the ramp a little
    assert moved.min() > 0


@pytest.mark.parametrize("rule", ["size", "scale-factor"])
def test_the_reader_adds_these_positions(rule):
    model = random_vit().eval()
    reader, pixels = VitReader(model, positions=rule), torch.randn(2, 3, 40, 72, generator=torch.Generator().manual_seed(0))
    found = reader.embed(pixels)
    with torch.inference_mode():
        patches = model.patch_embed(pixels).flatten(1, 2)
        own = resample_positions(model.pos_embed, (16, 16), (5, 9), 1, antialias=False, rule=rule)
        tokens = torch.cat([model.cls_token.expand(2, -1, -1), patches], dim=1) + own
        assert torch.allclose(found, model.norm(model.blocks(tokens))[:, 0], atol=1e-5)


def test_loading_hands_the_rule_on():
    assert load_vit("builtin:random", Context(), positions="scale-factor").reader.positions == "scale-factor"
    assert load_backbone("builtin:random", Context(), positions="scale-factor").reader.positions == "scale-factor"
    assert load_vit("builtin:random", Context()).reader.positions == "size"


def test_networks_without_learnt_positions_are_not_affected():
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2, "num_classes": 0}
    model = VisionTransformer(**settings, pos_embed="none", dynamic_img_size=True).eval()
    pixels = torch.randn(1, 3, 40, 48)
    assert torch.equal(VitReader(model).embed(pixels), VitReader(model, positions="scale-factor").embed(pixels))
