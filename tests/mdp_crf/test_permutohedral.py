"""The lattice against a literal one with a dictionary of vertices, and against exact Gaussian sums."""

from collections import defaultdict
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp_crf import permutohedral
from mdp_crf.permutohedral import Lattice, lattice


def simplex(point):
    """Returns {vertex: weight} of one point, after Adams et al., §3.1, with full coordinates and sorting."""
    d = len(point)
    scaled = [x * sqrt(2 / 3) * (d + 1) / sqrt((i + 1) * (i + 2)) for i, x in enumerate(point)]
    elevated = [sum(scaled[j:]) - j * (scaled[j - 1] if j else 0) for j in range(d + 1)]
    assert abs(sum(elevated)) < 1e-3
    zero = [round(e / (d + 1)) * (d + 1) for e in elevated]
    excess = sum(zero) // (d + 1)
    by_rest = sorted(range(d + 1), key=lambda i: -(elevated[i] - zero[i]))
    for i in by_rest[::-1][:excess] if excess > 0 else by_rest[:-excess]:  # the cheapest coordinates bring the sum back to 0
        zero[i] -= (d + 1) * np.sign(excess)
    assert sum(zero) == 0
    by_rest = sorted(range(d + 1), key=lambda i: -(elevated[i] - zero[i]))
    rest = [(elevated[i] - zero[i]) / (d + 1) for i in by_rest]
    weights = {}
    for k in range(d + 1):
        vertex = list(zero)
        for place, i in enumerate(by_rest):
            vertex[i] += k if place <= d - k else k - (d + 1)
        weight = 1 + rest[d] - rest[0] if k == 0 else rest[d - k] - rest[d + 1 - k]
        weights[tuple(int(v) for v in vertex)] = weight
    return weights


def literal(points, values):
    d = points.shape[1]
    corners = [simplex([float(x) for x in point]) for point in points]
    now = defaultdict(float)
    for weights, value in zip(corners, values, strict=True):
        for vertex, weight in weights.items():
            now[vertex] += weight * value
    for axis in range(d + 1):
        new = {}
        for vertex, value in now.items():
            step = [d if i == axis else -1 for i in range(d + 1)]
            new[vertex] = value + sum(
                0.5 * now.get(tuple(v + s * n for v, n in zip(vertex, step, strict=True)), 0.0) for s in (1, -1)
            )
        now = new
    return np.array([sum(weight * now[vertex] for vertex, weight in weights.items()) for weights in corners])


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 3, 5]), st.sampled_from([0.3, 2.0, 20.0]), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_equals_a_dictionary_of_vertices(seed, dimensions, spread, count):
    random = np.random.default_rng(seed)
    points = random.normal(size=(count, dimensions)).astype(np.float32) * np.float32(spread)
    values = random.random(count).astype(np.float32)
    found = lattice(np.ascontiguousarray(points.T)).filter(values[:, None])[:, 0]
    np.testing.assert_allclose(found, literal(points, values), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("dimensions", [2, 3, 5])
def test_approximates_gaussian_sums(dimensions):
    """Hundreds of points a standard deviation: the lattice's own error, about 5 % of the mean of the result."""
    random = np.random.default_rng(0)
    points = random.normal(size=(dimensions, 1500)).astype(np.float32) * np.float32(1.5)
    values = (points[0] > 0).astype(np.float32)[:, None]
    kernel = np.exp(-0.5 * ((points[:, :, None] - points[:, None, :]) ** 2).sum(0))
    scale = 1 / np.sqrt(kernel.sum(1))
    exact = (scale[:, None] * kernel * scale) @ values
    built = lattice(points)
    built.normalise()
    found = built.filter(values)
    assert np.abs(found - exact).mean() < 0.05
    assert np.corrcoef(found[:, 0], exact[:, 0])[0, 1] > 0.98


def test_weights_are_barycentric_and_the_kernels_transpose_blurs_in_reverse():
    random = np.random.default_rng(1)
    built = lattice(random.normal(size=(5, 300)).astype(np.float32))
    weights = built.points.data.reshape(300, 6)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    assert weights.min() > -1e-5
    kernel = built.filter(np.eye(300, dtype=np.float32))
    assert kernel.min() > -1e-4
    reverse = Lattice(built.points, built.blurs[::-1]).filter(np.eye(300, dtype=np.float32))
    np.testing.assert_allclose(kernel.T, reverse, atol=1e-5)


def test_blocks_change_nothing(monkeypatch):
    features = np.random.default_rng(2).normal(size=(5, 100)).astype(np.float32)
    whole = lattice(features)
    monkeypatch.setattr(permutohedral, "BLOCK", 7)
    cut = lattice(features)
    assert (whole.points.indices == cut.points.indices).all()
    np.testing.assert_allclose(whole.points.data, cut.points.data, atol=1e-5)
    for one, other in zip(whole.blurs, cut.blurs, strict=True):
        assert (one != other).nnz == 0


def test_points_too_far_apart_are_an_error():
    features = np.zeros((5, 2), np.float32)
    features[:, 1] = 1e5
    with pytest.raises(OverflowError, match="too many standard deviations"):
        lattice(features)
