import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp_probe.regions import majority_class, neighbours_class, region_means


@given(
    st.integers(0, 10_000), st.tuples(st.integers(1, 6), st.integers(1, 6)), st.tuples(st.integers(2, 30), st.integers(2, 30))
)
@settings(max_examples=40, deadline=None)
def test_means_are_those_of_features_at_every_pixel(seed, grid, size):
    rng = np.random.default_rng(seed)
    features = torch.from_numpy(rng.normal(size=(5, *grid)).astype(np.float32))
    labels = rng.integers(0, 4, size)
    large = torch.nn.functional.interpolate(features[None], size=size, mode="bilinear", align_corners=False)[0].double()
    found = region_means(features, torch.from_numpy(labels))
    assert found.labels.tolist() == [label for label in (1, 2, 3) if (labels == label).any()]
    for label, mean in zip(found.labels.tolist(), found.means, strict=True):
        vectors = [large[:, y, x] for y in range(size[0]) for x in range(size[1]) if labels[y, x] == label]
        average = torch.stack(vectors).mean(0)
        if float(average.norm()) > 1e-2:
            torch.testing.assert_close(mean.double(), average / average.norm(), rtol=1e-3, atol=1e-4)


def test_background_alone_has_no_regions():
    found = region_means(torch.randn(7, 3, 3), torch.zeros(9, 9, dtype=torch.int64))
    assert found.labels.shape == (0,)
    assert found.means.shape == (0, 7)


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        ([1, 1, 2, 255], 1),
        ([2, 1, 2, 1], 1),  # as many: the lowest
        ([0, 0, 0, 5], 0),  # background is a class
        ([255, 255, 255, 3], 3),
        ([255, 255, 255, 255], None),
    ],
)
def test_majority_class(truth, expected):
    inside = np.array([[True, True, True, True, False]])
    assert majority_class(inside, np.array([[*truth, 7]], np.uint8), 255) == expected


def _literal_vote(query, memory, classes, k):
    order = sorted(range(len(memory)), key=lambda i: (-float(query @ memory[i]), i))[:k]
    votes = {}
    for rank, i in enumerate(order):
        number, first = votes.get(classes[i], (0, rank))
        votes[classes[i]] = number + 1, first
    return min(votes, key=lambda name: (-votes[name][0], votes[name][1]))


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 15))
@settings(max_examples=60, deadline=None)
def test_neighbours_vote_as_written_down(seed, rows, k):
    rng = np.random.default_rng(seed)
    memory = rng.integers(-2, 3, (rows, 3)).astype(np.float32)  # whole numbers: many are equally similar, and exactly so
    queries = rng.integers(-2, 3, (4, 3)).astype(np.float32)
    classes = rng.integers(0, 4, rows)
    found = neighbours_class(torch.from_numpy(queries), torch.from_numpy(memory), classes, k)
    assert found.tolist() == [_literal_vote(query, memory, classes, k) for query in queries]
