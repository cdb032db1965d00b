import numpy as np

from mdp_core.evaluation.single_object import detection_of, missed_object_of, object_of


def test_the_first_of_equals_is_chosen():
    assert detection_of(np.array([0.2, 0.9, 0.9], np.float32)) == 1
    assert object_of(np.array([0.1, 0.4, 0.4])) == 1
    assert missed_object_of(np.array([3, 7, 7])) == 1


def test_an_object_is_chosen_even_where_none_overlaps():
    assert object_of(np.zeros(3)) == 0


def test_nothing_to_choose_from():
    assert detection_of(np.zeros(0, np.float32)) is None
    assert object_of(np.zeros(0)) is None
    assert missed_object_of(np.zeros(0, np.int64)) is None
