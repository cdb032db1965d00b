"""Overlap rules against literal loops, and the authors' rule against NumPy's indexing itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp_core.api import Instances
from mdp_refine.overlap import paint


def authors(masks, scores, labels):
    """Their painting: masks of 0 and 1 as uint8 index the label map as integers where it is asked what is painted already."""
    mask_res = np.zeros(masks.shape[1:], np.uint16)
    for i in sorted(range(len(masks)), key=lambda i: -scores[i]):
        mask = masks[i].astype(np.uint8)
        if mask_res[mask].sum() > 0:
            continue
        mask_res[mask == 1] = labels[i] + 1
    return mask_res


def skipping(masks, scores, labels):
    height, width = masks.shape[1:]
    values = np.zeros((height, width), int)
    for i in sorted(range(len(masks)), key=lambda i: -scores[i]):
        if any(masks[i, y, x] and values[y, x] for y in range(height) for x in range(width)):
            continue
        for y in range(height):
            for x in range(width):
                if masks[i, y, x]:
                    values[y, x] = labels[i] + 1
    return values


def some(seed, count, height, density, clusters=5):
    random = np.random.default_rng(seed)
    masks = random.random((count, height, 6)) < density
    masks[:, : random.integers(0, 3)] &= random.random() < 0.3  # the top rows are often empty
    if count and random.random() < 0.2:
        masks[random.integers(count)] = True
    scores = random.choice(np.array([0.3, 0.5, 0.9, 0.95], np.float32), count)
    return masks, scores, random.integers(0, clusters, count)


cases = given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 6),
    st.integers(2, 6),
    st.sampled_from([0.03, 0.1, 0.4]),
    st.sampled_from([5, 300]),
)


@cases
def test_the_authors_rule_is_what_numpy_does(seed, count, height, density, clusters):
    masks, scores, labels = some(seed, count, height, density, clusters)
    found = paint(Instances.from_masks(masks, scores=scores, labels=labels), "authors")
    assert found.values.tolist() == authors(masks, scores, labels).tolist()


@cases
def test_skipping_leaves_out_whole_masks_that_touch(seed, count, height, density, clusters):
    masks, scores, labels = some(seed, count, height, density, clusters)
    found = paint(Instances.from_masks(masks, scores=scores, labels=labels), "skip-overlapping")
    assert found.values.tolist() == skipping(masks, scores, labels).tolist()


def two(first, second, rule):
    masks = np.array([first, second], bool)
    return paint(Instances.from_masks(masks, scores=[0.9, 0.8], labels=[0, 1]), rule).values.tolist()


BELOW = [[0, 0], [0, 0], [1, 1]]
ABOVE = [[1, 0], [0, 0], [0, 0]]
BELOW_LEFT = [[0, 0], [0, 0], [1, 0]]


def test_the_three_rules_differ():
    assert two(BELOW, BELOW_LEFT, "confident-wins") == [[0, 0], [0, 0], [1, 1]]
    assert two(BELOW, BELOW_LEFT, "skip-overlapping") == [[0, 0], [0, 0], [1, 1]]
    assert two(BELOW, BELOW_LEFT, "authors") == [[0, 0], [0, 0], [2, 1]], "the less confident mask covers the other"
    assert two(ABOVE, BELOW, "skip-overlapping") == [[1, 0], [0, 0], [2, 2]]
    assert two(ABOVE, BELOW, "authors") == [[1, 0], [0, 0], [0, 0]], "left out though nothing overlaps"


def test_a_mask_of_the_whole_image_asks_the_second_row_alone():
    whole = [[1, 1], [1, 1], [1, 1]]
    assert two(ABOVE, whole, "authors") == [[2, 2]] * 3
    assert two([[0, 0], [1, 0], [0, 0]], whole, "authors") == [[0, 0], [1, 0], [0, 0]]


def test_an_image_of_one_row_is_judged_by_that_row():
    assert two([[1, 0, 0]], [[0, 1, 0]], "authors") == [[1, 0, 0]]
    assert two([[1, 0, 0]], [[1, 1, 1]], "authors") == [[2, 2, 2]]


@pytest.mark.parametrize("rule", ["confident-wins", "skip-overlapping", "authors"])
def test_no_instances_are_background(rule):
    assert not paint(Instances.empty(3, 4), rule).values.any()
