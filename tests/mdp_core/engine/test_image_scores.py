from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mdp_core.data.instances import Instances
from mdp_core.data.label_map import LabelMap
from mdp_core.engine.image_scores import class_score, confidence_score, foreground_score, object_score

MATCHINGS: tuple[tuple[int | None, ...], ...] = ((0, 1, 2), (1, 0, None), (None, 3, 0), (2, None, None), (None, None, None))


def literal_class_score(found: np.ndarray, true: np.ndarray, matching: tuple[int | None, ...]) -> float | None:
    """Pixel by pixel, with sets."""
    pixels = [(int(f), int(t)) for f, t in zip(found.ravel(), true.ravel(), strict=True) if t != 255]
    ious = []
    for number, cluster in enumerate(matching):
        of_class = {i for i, (_, t) in enumerate(pixels) if t == number}
        predicted = {i for i, (f, _) in enumerate(pixels) if f == cluster}
        if of_class:
            ious.append(len(of_class & predicted) / len(of_class | predicted))
    return sum(ious) / len(ious) if ious else None


@given(
    arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, 2, 3, 4, 255])),
    arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, 2, 255])),
    st.sampled_from(MATCHINGS),
)
def test_class_score_against_its_definition(found: np.ndarray, true: np.ndarray, matching: tuple[int | None, ...]) -> None:
    score = class_score(LabelMap(found), LabelMap(true), matching)
    expected = literal_class_score(found, true, matching)
    assert score is None if expected is None else score == pytest.approx(expected)


def test_clustered_masks_count_as_they_are_painted() -> None:
    mask = np.zeros((1, 4, 4), bool)
    mask[0, :2] = True
    true = LabelMap(np.repeat(np.array([[1], [1], [0], [0]], np.uint8), 4, axis=1))
    assert class_score(Instances.from_masks(mask, labels=[2]), true, (0, 3)) == 1.0
    assert class_score(Instances.from_masks(mask, labels=[1]), true, (0, 3)) == 0.5, "the class missed, the background is right"
    assert class_score(Instances.empty(4, 4), true, (0, 3)) == 0.25
    assert class_score(Instances.empty(4, 4), None, (0, 3)) is None


def test_objects_are_compared_with_the_most_confident_mask_alone() -> None:
    masks = np.zeros((2, 4, 4), bool)
    masks[0, :2], masks[1, 3:] = True, True
    truth = Instances.from_masks(masks[:1])
    assert object_score(Instances.from_masks(masks, scores=[0.9, 0.1]), truth) == 1.0
    assert object_score(Instances.from_masks(masks, scores=[0.1, 0.9]), truth) == 0.0
    assert object_score(Instances.empty(4, 4), truth) == 0.0
    assert object_score(Instances.from_masks(masks), Instances.empty(4, 4)) is None
    assert object_score(Instances.from_masks(masks), None) is None


def test_foreground_leaves_out_what_the_truth_ignores() -> None:
    true = LabelMap(np.array([[1, 2, 0, 255]], np.uint8))
    assert foreground_score(LabelMap(np.array([[3, 3, 0, 3]], np.uint8)), true) == 1.0
    assert foreground_score(LabelMap(np.array([[3, 0, 3, 3]], np.uint8)), true) == pytest.approx(1 / 3)
    assert foreground_score(Instances.from_masks(np.array([[[True, False, False, True]]])), true) == 0.5
    assert foreground_score(LabelMap.background(1, 4), LabelMap.background(1, 4)) is None


def test_confidence_is_the_mean_score() -> None:
    masks = np.ones((2, 2, 2), bool)
    assert confidence_score(Instances.from_masks(masks, scores=[0.25, 0.75])) == 0.5
    assert confidence_score(Instances.empty(2, 2)) is None
    assert confidence_score(LabelMap.background(2, 2)) is None
