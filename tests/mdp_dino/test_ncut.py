"""Normalised cuts against a dense generalised eigensolver and loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import LinAlgError, eigh

from mdp_core.api import StageError
from mdp_dino import ncut
from mdp_dino.ncut import at_most, bipartition, cohesion, peak, smallest_eigenvectors, threshold_graph, unit


def literal_eigenvectors(affinity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All solutions of (D - W) v = λ D v."""
    degrees = np.diag(affinity.astype(np.float64).sum(axis=1))
    return eigh(degrees - affinity, degrees)


def relu_graph(patches: int, seed: int, dim: int = 12) -> np.ndarray:
    features = np.random.default_rng(seed).normal(size=(patches, dim)) + 0.2
    return np.maximum(features @ features.T, 0) + 1e-3


def assert_solves(affinity: np.ndarray, count: int) -> None:
    values, vectors = smallest_eigenvectors(affinity, count)
    wanted, dense = literal_eigenvectors(affinity)
    exact, degrees = affinity.astype(np.float64), np.diag(affinity.sum(axis=1, dtype=np.float64))
    assert values.dtype == vectors.dtype == np.float64
    assert vectors.shape == (len(affinity), count)
    assert np.abs(values - wanted[:count]).max() < 1e-10
    assert np.abs(vectors.T @ degrees @ vectors - np.eye(count)).max() < 1e-8
    residual = (degrees - exact) @ vectors - degrees @ vectors * values
    assert np.abs(residual).max() < 1e-7 * np.sqrt(degrees.max())
    for index in range(count):
        v = vectors[:, index]
        assert v[peak(v)] > 0
        around = np.delete(wanted, index)
        if np.abs(around - wanted[index]).min(initial=1) > 1e-4:
            assert np.abs(np.abs(v @ degrees @ dense[:, index]) - 1) < 1e-9


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), patches=st.integers(1, 40), count=st.integers(1, 40), single=st.booleans())
def test_small_graphs_equal_the_dense_solver(seed, patches, count, single):
    affinity = relu_graph(patches, seed)
    assert_solves(affinity.astype(np.float32) if single else affinity, min(count, patches))


@pytest.mark.parametrize(("patches", "count"), [(100, 2), (160, 3), (240, 15), (300, 75), (120, 120)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_larger_graphs_equal_the_dense_solver(patches, count, dtype):
    assert_solves(relu_graph(patches, patches).astype(dtype), count)


def test_larger_graphs_do_without_the_dense_solver(monkeypatch):
    monkeypatch.setattr(ncut, "_dense", lambda *_: pytest.fail("dense"))
    smallest_eigenvectors(relu_graph(200, 0), 5)
    with pytest.raises(pytest.fail.Exception, match="dense"):
        smallest_eigenvectors(relu_graph(99, 0), 5)


def test_no_copy_of_a_repeated_eigenvalue_is_missed():
    blocks = np.kron(np.eye(6), np.ones((40, 40)))
    values, vectors = smallest_eigenvectors(blocks, 7)
    assert np.abs(values - [0, 0, 0, 0, 0, 0, 1]).max() < 1e-12
    assert np.abs(40 * vectors.T @ vectors - np.eye(7)).max() < 1e-10
    assert np.ptp(vectors[:, 0]) == 0
    for block in vectors[:, :6].reshape(6, 40, 6):
        assert np.ptp(block, axis=0).max() < 1e-10


def test_where_a_copy_is_missed_the_dense_solver_steps_in(monkeypatch):
    """Lanczos is made to see one direction of a double eigenvalue, and nothing by chance."""
    real = ncut.eigsh

    def blind(operator, k, **options):
        values, vectors = real(operator, k=max(k, 2), **options)
        if k == 2:  # the second copy of the double eigenvalue is left out, the next value put in its place
            more, others = real(operator, k=3, **options)
            return np.delete(more, 1), np.delete(others, 1, axis=1)
        return values[-k:], vectors[:, -k:]

    monkeypatch.setattr(ncut, "eigsh", blind)
    blocks = np.kron(np.eye(3), np.ones((50, 50))) + 1e-3
    values, _ = smallest_eigenvectors(blocks, 3)
    assert values[1] == pytest.approx(values[2], abs=1e-12)
    assert values[2] < 0.1


def test_without_convergence_the_dense_solver_steps_in(monkeypatch):
    affinity = relu_graph(400, 1)
    values, vectors = smallest_eigenvectors(affinity, 4)
    monkeypatch.setattr(ncut, "PRODUCTS", 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ncut, "_dense", lambda *_: pytest.fail("dense"))
        with pytest.raises(pytest.fail.Exception, match="dense"):
            smallest_eigenvectors(affinity, 4)
    again, dense = smallest_eigenvectors(affinity, 4)
    assert np.abs(again - values).max() < 1e-12
    assert np.abs(dense - vectors).max() < 1e-9


def test_where_nothing_converges_the_error_says_so(monkeypatch):
    def fails(*_, **__):
        raise LinAlgError("no convergence")

    monkeypatch.setattr(ncut, "eigh", fails)
    with pytest.raises(StageError, match="a graph of 20 patches"):
        smallest_eigenvectors(relu_graph(20, 0), 2)


@pytest.mark.parametrize(
    ("affinity", "count"),
    [
        (np.ones((3, 3)), 0),
        (np.ones((3, 3)), 4),
        (np.ones((3, 2)), 1),
        (np.diag([1.0, 0, 1]), 1),
        (np.full((3, 3), np.nan), 1),
    ],
)
def test_what_is_no_graph_is_refused(affinity, count):
    with pytest.raises(ValueError, match=r"eigenvectors of|row sums"):
        smallest_eigenvectors(affinity, count)


def test_the_same_graph_gives_the_same_bits_and_is_not_changed():
    affinity = relu_graph(300, 5)
    before = affinity.copy()
    first, second = smallest_eigenvectors(affinity, 6), smallest_eigenvectors(affinity, 6)
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1].tobytes() == second[1].tobytes()
    assert (affinity == before).all()


def test_of_equal_magnitudes_the_first_is_the_peak():
    assert peak(np.array([0.1, -0.5, 0.5])) == 1
    assert peak(np.array([0.1, 0.5 - 1e-12, -0.5])) == 1
    assert peak(np.zeros(3)) == 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), patches=st.integers(1, 30), tau=st.floats(0, 0.9), centred=st.booleans())
def test_threshold_graph_pair_by_pair(seed, patches, tau, centred):
    features = np.random.default_rng(seed).normal(size=(patches, 5)).astype(np.float32)
    graph = threshold_graph(unit(torch.from_numpy(features), centred=centred), tau, 1e-5)
    exact = features.astype(np.float64) - (features.astype(np.float64).mean(axis=0) if centred else 0)
    for i in range(patches):
        for j in range(patches):
            lengths = np.linalg.norm(exact[i]) * np.linalg.norm(exact[j])
            cosine = exact[i] @ exact[j] / lengths if patches > 1 or not centred else 0.0
            if abs(cosine - tau) > 1e-6:
                assert graph[i, j] == (1.0 if cosine > tau else 1e-5)
    assert (graph == graph.T).all()


def test_what_has_no_direction_is_like_nothing():
    same = torch.full((5, 3), 0.1)
    assert (unit(same, centred=True) == 0).all()
    assert (unit(torch.zeros(2, 3)) == 0).all()
    assert (threshold_graph(unit(torch.zeros(2, 3)), 0.0, 1e-5) == 1e-5).all()
    assert unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]


@pytest.mark.parametrize("patches", [1, 2, 3, 50, 99, 100, 101, 250])
def test_a_graph_without_a_cut_of_its_own_has_none(patches):
    assert bipartition(np.ones((patches, patches))) is None
    assert bipartition(np.full((patches, patches), 1e-5)) is None
    if patches != 1:
        assert bipartition(np.where(np.eye(patches) > 0, 1, 1e-5)) is None


@pytest.mark.parametrize("sizes", [(2, 1), (30, 60), (200, 50), (150, 60, 90)])
def test_separate_groups_are_cut_apart(sizes):
    group = np.repeat(np.arange(len(sizes)), sizes)
    cut = bipartition(np.where(group[:, None] == group, 1, 1e-5))
    for number in range(len(sizes)):
        assert len(set(cut.foreground[group == number])) == 1
    assert cut.foreground.any()
    assert not cut.foreground.all()
    assert cut.foreground[peak(cut.vector)]
    assert cut.values[0] < cut.values[1]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), patches=st.integers(2, 20))
def test_cohesion_is_one_minus_the_cut_link_by_link(seed, patches):
    random = np.random.default_rng(seed)
    graph = threshold_graph(unit(torch.from_numpy(random.normal(size=(patches, 3)))), 0.2, 1e-3)
    mask = random.random(patches) < 0.4
    cut, inside, outside = 0.0, 0.0, 0.0
    for i in range(patches):
        for j in range(patches):
            if i != j:
                cut += graph[i, j] if mask[i] and not mask[j] else 0
                inside += graph[i, j] if mask[i] else 0
                outside += graph[i, j] if not mask[i] else 0
    wanted = max(0.0, 1 - cut / inside - cut / outside) if inside and outside else 0.0
    assert cohesion(graph, mask) == pytest.approx(wanted, abs=1e-12)


def test_cohesion_of_what_stands_apart_and_of_chance():
    apart = np.kron(np.eye(2), np.ones((50, 50))) + 1e-9
    assert cohesion(apart, np.arange(100) < 50) == pytest.approx(1, abs=1e-6)
    chance = [cohesion(apart, np.random.default_rng(seed).random(100) < 0.3) for seed in range(20)]
    assert max(chance) < 0.1
    single = np.where(np.eye(100) > 0, 1, 1e-5)
    single[1:, 1:] = 1
    assert cohesion(single, np.arange(100) < 1) == 0  # a perfect cut, but of a single patch
    assert cohesion(apart, np.zeros(100, bool)) == cohesion(apart, np.ones(100, bool)) == 0


def test_the_cut_is_never_worth_more_than_its_eigenvalue_promises():
    for seed in range(10):
        features = np.random.default_rng(seed).normal(size=(150, 6))
        graph = threshold_graph(unit(torch.from_numpy(features)), 0.2, 1e-5)
        cut = bipartition(graph)
        assert 0 < cohesion(graph, cut.foreground) <= 1 - cut.values[0]


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([8, 14, 16]), st.integers(4, 5000))
def test_at_most_so_many_patches(height, width, patch, patches):
    small = at_most((height, width), patch, patches)
    assert min(small) >= 1
    assert -(-small[0] // patch) * -(-small[1] // patch) <= patches
    if -(-height // patch) * -(-width // patch) <= patches:
        assert small == (height, width)


def test_an_image_of_too_many_patches_keeps_its_shape():
    height, width = at_most((3000, 4000), 16, 10_000)
    assert height / width == pytest.approx(0.75, abs=0.01)
    assert -(-height // 16) * -(-width // 16) > 9_500
