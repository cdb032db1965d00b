from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp_core.evaluation.confusion import Confusion
from mdp_core.evaluation.matching import Matching, identity, majority, match


def confusion_of(counts, unpredicted=None):
    counts = np.array(counts, np.int64)
    confusion = Confusion(counts.shape[0] - 1, counts.shape[1])
    confusion.counts += counts
    if unpredicted is not None:
        confusion.unpredicted += np.array(unpredicted, np.int64)
    return confusion


def most_shared_pixels(counts):
    """Tries every one-to-one assignment."""
    labels, classes = counts.shape
    if labels < classes:
        return most_shared_pixels(counts.T)
    return max(sum(int(counts[label, c]) for c, label in enumerate(chosen)) for chosen in permutations(range(labels), classes))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_as_good_as_the_best_permutation(labels, classes, seed):
    rng = np.random.default_rng(seed)
    if max(labels, classes) == 7 and min(labels, classes) > 5:
        labels = 5  # keeps the number of permutations small
    counts = rng.integers(0, 10, (labels, classes)) * rng.integers(0, 2, (labels, classes))
    matching = match(confusion_of(counts))
    pairs = [(label, c) for c, label in enumerate(matching.cluster_of_class) if label is not None]
    assert matching.pixels == sum(int(counts[label, c]) for label, c in pairs) == most_shared_pixels(counts)
    assert len({label for label, _ in pairs}) == len(pairs)
    assert all(counts[label, c] > 0 for label, c in pairs)
    assert len(matching.cluster_of_class) == classes


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("labels", [6, 7])
def test_seven_classes_against_all_permutations(seed, labels):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 1000, (labels, 7)) * (rng.random((labels, 7)) < (0.3 if seed % 2 else 1.0))
    every = np.array(list(permutations(range(7), labels)))
    assert match(confusion_of(counts)).pixels == counts[np.arange(labels), every].sum(axis=1).max()


def test_background_may_stand_for_an_object_class():
    assert match(confusion_of([[1, 9], [9, 1]])).cluster_of_class == (1, 0)


def test_an_absent_class_takes_no_cluster():
    # class 2 is absent from the truth; class 3 exists but is never predicted right
    matching = match(confusion_of([[5, 0, 0, 0], [0, 7, 0, 0], [1, 0, 0, 0]], [0, 0, 0, 4]))
    assert matching == Matching((0, 1, None), 4, (5, 7, 0))
    assert (matching.cluster_of_class, matching.pixels) == ((0, 1, None, None), 12)


def test_more_clusters_than_classes_leaves_the_rest_unmatched():
    matching = match(confusion_of([[50, 0], [0, 6], [0, 5], [8, 4]]))
    assert matching == Matching((0, 1, None, None), 2, (50, 6, 0, 0))
    assert matching.cluster_of_class == (0, 1)


def literal_majority(counts):
    """A loop over labels and classes, the first of equals."""
    chosen = []
    for row in counts.tolist():
        best, most = None, 0
        for true, pixels in enumerate(row):
            if pixels > most:
                best, most = true, pixels
        chosen.append(best)
    return tuple(chosen)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_majority_is_the_loop(labels, classes, seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, (labels, classes)) * rng.integers(0, 2, (labels, classes))
    matching = majority(confusion_of(counts))
    assert matching.class_of_label == literal_majority(counts)
    assert (matching.rule, matching.unit, matching.pixels) == ("majority", "pixels", int(counts.max(axis=1).sum()))
    assert matching.pixels >= match(confusion_of(counts)).pixels


def test_majority_lets_clusters_share_a_class_and_counts_background_like_any_other():
    matching = majority(confusion_of([[9, 1, 0], [8, 2, 0], [1, 3, 0], [2, 4, 0], [0, 0, 0]]))
    assert matching.class_of_label == (0, 0, 1, 1, None)
    assert matching.cluster_of_class == (0, 3, None)  # of several labels the one that shares most
    assert matching.shared == (9, 8, 3, 4, 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_numbers_of_clusters_mean_nothing(seed):
    rng = np.random.default_rng(seed)
    counts = 2 ** rng.permutation(6 * 5).reshape(6, 5)  # no two sums are alike: the best is one
    order = rng.permutation(6)
    for rule in (match, majority):
        before, after = rule(confusion_of(counts)), rule(confusion_of(counts[order]))
        assert after.class_of_label == tuple(before.class_of_label[label] for label in order)
        assert after.pixels == before.pixels


def test_identity_takes_labels_for_classes():
    matching = identity(confusion_of([[5, 1], [2, 7]]))
    assert matching == Matching((0, 1), 2, (5, 7), rule="identity")
    with pytest.raises(ValueError, match="3 labels cannot be 2 classes"):
        identity(confusion_of([[5, 1], [2, 7], [0, 0]]))


def test_words():
    confusion = confusion_of([[5, 1], [2, 7]])
    assert match(confusion).words("val") == "hungarian, pixels, split val"
    assert majority(confusion).words("val") == "majority, pixels, split val"
    assert identity(confusion).words("val") == "none, labels are classes"
    assert Matching((0, 1), 2, (0, 3), unit="objects", split="train").words("val") == "hungarian, objects, split train"


def test_a_matching_must_be_whole():
    with pytest.raises(ValueError, match="2 labels, but 1 numbers"):
        Matching((0, 1), 2, (3,))
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        Matching((0, 2), 2, (3, 3))
    with pytest.raises(ValueError, match=r"3 labels and 2 classes for counts of \(2, 2\)"):
        Matching((0, 1, None), 2, (3, 3, 0)).on(confusion_of([[5, 1], [2, 7]]))
