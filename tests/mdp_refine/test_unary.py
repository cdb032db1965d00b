"""Unaries against interpolated logits and literal loops."""

import numpy as np
import pytest
import torch

from mdp_core.api import LabelMap
from mdp_refine.unary import from_labels, from_probabilities, shrunk


def softmaxed(logits):
    return torch.softmax(torch.from_numpy(logits), 0).numpy().astype(np.float16)


def test_equals_the_softmax_of_interpolated_logits():
    logits = np.random.default_rng(0).normal(0, 2, (5, 6, 9)).astype(np.float32)
    unary = from_probabilities(softmaxed(logits), (40, 61))
    whole = torch.nn.functional.interpolate(torch.from_numpy(logits)[None], (40, 61), mode="bilinear", align_corners=False)[0]
    expected = torch.softmax(whole, 0).numpy().reshape(5, -1).T
    assert unary.labels.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(np.exp(-unary.energies), np.maximum(expected, 1e-5), atol=2e-3)


def test_impossible_labels_get_the_least_probability():
    probabilities = np.zeros((3, 4, 4), np.float16)
    probabilities[1] = 1
    unary = from_probabilities(probabilities, (4, 4), least=1e-3)
    np.testing.assert_allclose(unary.energies[:, [0, 2]], -np.log(1e-3), atol=1e-5)
    np.testing.assert_allclose(unary.energies[:, 1], 0, atol=1e-5)


def test_labels_that_occur_take_part():
    probabilities = np.zeros((4, 1, 2), np.float16)
    probabilities[:, 0, 0] = 0.5, 0.4, 0.1, 0.0
    probabilities[:, 0, 1] = 0.0, 0.1, 0.1, 0.8
    assert from_probabilities(probabilities, (1, 2), floor=1).labels.tolist() == [0, 3]
    assert from_probabilities(probabilities, (1, 2), floor=0.3).labels.tolist() == [0, 1, 3]
    assert from_probabilities(probabilities, (1, 2), floor=0).labels.tolist() == [0, 1, 2, 3]
    restricted, whole = (from_probabilities(probabilities, (8, 16), floor=floor) for floor in (1, 0))
    np.testing.assert_array_equal(restricted.energies, whole.energies[:, restricted.labels])


def test_a_label_that_wins_between_two_pixels_alone_takes_part():
    probabilities = np.array([[[0.98, 1e-4]], [[0.019, 0.019]], [[1e-4, 0.98]]], np.float16)
    assert from_probabilities(probabilities, (1, 9), floor=1).labels.tolist() == [0, 1, 2]


def test_hard_labels_share_the_rest_among_those_of_the_image():
    values = np.array([[0, 7, 7], [3, 255, 0]], np.uint8)
    unary = from_labels(LabelMap(values), 0.7)
    assert unary.labels.tolist() == [0, 3, 7]
    found = np.exp(-unary.energies).reshape(2, 3, 3)
    np.testing.assert_allclose(found[0, 0], [0.7, 0.15, 0.15], atol=1e-6)
    np.testing.assert_allclose(found[0, 1], [0.15, 0.15, 0.7], atol=1e-6)
    np.testing.assert_allclose(found[1, 1], 1 / 3, atol=1e-6)


def test_hard_labels_equal_pydensecrfs():
    utils = pytest.importorskip("pydensecrf.utils")
    values = np.random.default_rng(1).integers(0, 4, (5, 6)).astype(np.uint8)
    expected = utils.unary_from_labels(values, 4, 0.7, zero_unsure=False)
    np.testing.assert_allclose(from_labels(LabelMap(values), 0.7).energies.T, expected, rtol=1e-5)


def test_an_image_to_be_ignored_has_no_labels():
    assert from_labels(LabelMap(np.full((2, 3), 255, np.uint8)), 0.7).labels.tolist() == []


def test_shrinking_takes_the_nearest_pixel():
    values = np.kron(np.array([[1, 2], [3, 255]]), np.ones((3, 3))).astype(np.uint8)
    assert shrunk(LabelMap(values), (2, 2)).values.tolist() == [[1, 2], [3, 255]]
    assert shrunk(LabelMap(values.astype(np.uint16)), (2, 2)).values.dtype == np.uint16
