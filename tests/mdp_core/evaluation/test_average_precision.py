import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp_core.evaluation.average_precision import (
    MAX_DETECTIONS,
    THRESHOLDS,
    Found,
    Pairs,
    Truth,
    average_precision,
    match,
)


def literal_match(overlaps, crowd, threshold):
    """COCO's rule for one image and class, said slowly: detections in their order, objects before crowd regions."""
    taken, matched = set(), []
    for line in overlaps:
        best = None
        for index in [i for i in range(len(line)) if not crowd[i]]:
            if index not in taken and line[index] >= max(threshold, line[best] if best is not None else 0):
                best = index
        if best is None:
            for index in [i for i in range(len(line)) if crowd[i]]:
                if line[index] >= max(threshold, line[best] if best is not None else 0):
                    best = index
        elif best is not None:
            taken.add(best)
        matched.append(best)
    return matched


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9))
def test_matches_are_those_of_the_literal_loop(seed):
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(0, 9)), int(rng.integers(0, 6))
    overlaps = rng.choice([0.0, 0.3, 0.5, 0.55, 0.6, 0.7, 0.75, 0.9, 1.0], (n, m))
    crowd = np.sort(rng.random(m) < 0.3)
    found = Found(np.zeros(n, np.int32), -np.sort(-rng.random(n)).astype(np.float32), np.zeros(n, np.int32))
    matches = match(found, Truth(np.zeros(m, np.int32), crowd), Pairs.of(overlaps, crowd))
    for bit, threshold in enumerate(THRESHOLDS):
        expected = literal_match(overlaps, crowd, threshold)
        right = [index is not None and not crowd[index] for index in expected]
        ignored = [index is not None and bool(crowd[index]) for index in expected]
        assert ((matches.right >> bit) & 1).tolist() == right
        assert ((matches.ignored >> bit) & 1).tolist() == ignored
        if bit == 0:
            assert matches.objects.tolist() == [i if ok else -1 for i, ok in zip(expected, right, strict=True)]


def test_pairs_keep_what_reaches_one_half_by_preference():
    overlaps = np.array([[0.5, 0.4999999, 0.8, 0.8, 1.0], [0.1, 0.2, 0.3, 0.4, 0.0]])
    pairs = Pairs.of(overlaps, np.array([False, False, False, False, True]))
    assert pairs.found.tolist() == [0, 0, 0, 0]
    assert pairs.truth.tolist() == [3, 2, 0, 4]  # larger IoU, then the later object; the crowd region last
    assert pairs.bits.tolist() == [0b1111111, 0b1111111, 1, 0b1111111111]


def test_images_and_classes_do_not_mix():
    found = Found(np.array([0, 0, 1], np.int32), np.array([0.9, 0.8, 0.7], np.float32), np.array([0, 1, 1], np.int32))
    truth = Truth(np.array([1, 0, -1], np.int32), np.zeros(3, np.bool_))
    every = Pairs(np.array([0, 1, 2], np.int32), np.array([0, 0, 2], np.int32), np.full(3, 1023, np.uint16))
    matches = match(found, truth, every)
    assert matches.right.tolist() == [0, 1023, 0]  # 0: another class; 2: its object takes no part
    scores = average_precision(found, truth, matches, 3)
    assert scores.class_ap == (0.0, pytest.approx(1.0), None)
    assert (scores.ap, scores.ap50, scores.ap75, scores.ar100) == tuple(pytest.approx(0.5) for _ in range(4))


def test_the_first_hundred_of_an_image_and_class_count():
    n = MAX_DETECTIONS + 5
    found = Found(
        np.repeat(np.array([0, 1], np.int32), n),
        np.ones(2 * n, np.float32),
        np.tile(np.array([0] * n, np.int32), 2),
    )
    assert np.flatnonzero(~found.counted()).tolist() == [*range(100, 105), *range(205, 210)]
    mixed = Found(found.images, found.scores, (np.arange(2 * n) % 2).astype(np.int32))
    assert mixed.counted().all()


def test_nothing_to_find_has_no_score():
    none = Found(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    truth = Truth(np.zeros(1, np.int32), np.ones(1, np.bool_))
    pairs = Pairs.of(np.zeros((0, 1)), truth.crowd)
    assert average_precision(none, truth, match(none, truth, pairs), 1).ap is None
    missed = Truth(np.zeros(1, np.int32), np.zeros(1, np.bool_))
    scores = average_precision(none, missed, match(none, missed, pairs), 1)
    assert (scores.ap, scores.ar100, scores.class_ap) == (0.0, 0.0, (0.0,))
