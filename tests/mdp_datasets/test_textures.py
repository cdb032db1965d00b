from __future__ import annotations

import numpy as np
import pytest

from mdp_datasets import textures

PIXEL = 1 / 16
SIDE = (np.arange(64, dtype=np.float32) + np.float32(0.5)) * np.float32(PIXEL)
X, Y = (np.ascontiguousarray(plane) for plane in np.meshgrid(SIDE, SIDE))


def draw(name: str, x: np.ndarray = X, y: np.ndarray = Y, seed: int = 0) -> np.ndarray:
    return getattr(textures, name)(x, y, PIXEL, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("name", "share"), [("rings", 0.5), ("stripes", 0.5), ("checks", 0.5), ("dots", 0.302), ("grain", 0.5)]
)
def test_patterns_are_two_tones_with_smooth_edges(name: str, share: float) -> None:
    pattern = draw(name)
    assert (pattern.dtype, pattern.shape) == (np.float32, X.shape)
    assert (pattern.min(), pattern.max()) == (0.0, 1.0)
    assert np.mean([draw(name, seed=seed) for seed in range(10)]) == pytest.approx(share, abs=0.03)
    between = (pattern > 0) & (pattern < 1)
    assert 0.02 < between.mean() < 0.5


@pytest.mark.parametrize("name", ["stripes", "checks", "dots"])
def test_patterns_repeat_with_period_one(name: str) -> None:
    for dx, dy in ((1, 0), (0, 1), (3, -2)):
        np.testing.assert_allclose(draw(name, X + np.float32(dx), Y + np.float32(dy)), draw(name), atol=1e-3)


@pytest.mark.parametrize(("name", "x", "y", "bright"), [
    ("rings", 0.0, 0.0, True), ("rings", 0.3, 0.4, False), ("rings", 0.6, 0.8, True), ("rings", -1.5, 0.0, False),
    ("stripes", 0.0, 0.7, True), ("stripes", 0.5, 0.7, False), ("stripes", 1.0, -3.0, True),
    ("checks", 0.25, 0.25, True), ("checks", 0.75, 0.25, False), ("checks", 0.75, 0.75, True), ("checks", 0.25, 0.75, False),
    ("dots", 2.0, 1.0, True), ("dots", 2.2, 1.1, True), ("dots", 2.5, 1.5, False), ("dots", 2.4, 1.0, False),
])  # fmt: skip
def test_tone_at_a_point(name: str, x: float, y: float, bright: bool) -> None:
    assert draw(name, np.full((1, 1), x, np.float32), np.full((1, 1), y, np.float32)).item() == float(bright)


def test_grain_depends_on_the_generator_alone() -> None:
    np.testing.assert_array_equal(draw("grain"), draw("grain"))
    assert (draw("grain") != draw("grain", seed=1)).mean() > 0.3


@pytest.mark.parametrize(("height", "width", "cell"), [(1, 1, 5.0), (3, 40, 7.5), (64, 64, 1.0), (64, 64, 200.0)])
def test_smooth_noise_has_the_size_asked_for(height: int, width: int, cell: float) -> None:
    noise = textures.smooth_noise(height, width, cell, np.random.default_rng(0))
    assert (noise.shape, noise.dtype) == ((height, width), np.float32)
    assert np.isfinite(noise).all()


def test_smooth_noise_is_smooth_over_a_cell() -> None:
    fine, coarse = (textures.smooth_noise(64, 64, cell, np.random.default_rng(0)) for cell in (1.0, 16.0))
    assert np.abs(np.diff(coarse, axis=1)).mean() < np.abs(np.diff(fine, axis=1)).mean() / 4
