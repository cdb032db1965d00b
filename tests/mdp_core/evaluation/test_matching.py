from itertools import permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp_core.evaluation.confusion import Confusion
from mdp_core.evaluation.matching import Matching, match


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


def test_seven_by_seven_against_all_permutations():
    counts = np.random.default_rng(7).integers(0, 1000, (7, 7))
    assert match(confusion_of(counts)).pixels == most_shared_pixels(counts)


def test_background_may_stand_for_an_object_class():
    assert match(confusion_of([[1, 9], [9, 1]])).cluster_of_class == (1, 0)


def test_an_absent_class_takes_no_cluster():
    # class 2 is absent from the truth; class 3 exists but is never predicted right
    matching = match(confusion_of([[5, 0, 0, 0], [0, 7, 0, 0], [1, 0, 0, 0]], [0, 0, 0, 4]))
    assert matching == Matching((0, 1, None, None), 12)


def test_more_clusters_than_classes_leaves_the_rest_unmatched():
    matching = match(confusion_of([[50, 0], [0, 6], [0, 5], [8, 4]]))
    assert matching == Matching((0, 1), 56)
