"""confidence against a literal loop over pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp_core.api import Context, ImageRecord, Images, Instances, LabelMap, StageError
from mdp_refine.confidence import Confidence, confident
from mdp_refine.settings import ConfidenceConfig


def refine(predictions, **settings):
    records = [ImageRecord(str(i), *one.size) for i, one in enumerate(predictions)]
    images = Images(records, lambda _record: pytest.fail("no pixels are needed"))
    return list(Confidence(ConfidenceConfig(**settings), Context()).refine(images, predictions))


def literal(masks, scores, labels, threshold, keep_best) -> np.ndarray:
    count, height, width = masks.shape
    kept = [i for i in range(count) if scores[i] > np.float32(threshold)]
    if not kept and keep_best and count:
        kept = [max(range(count), key=lambda i: (scores[i], -i))]
    values = np.zeros((height, width), int)
    for y in range(height):
        for x in range(width):
            best = None
            for i in kept:
                if masks[i, y, x] and (best is None or scores[i] > scores[best]):
                    best = i
            values[y, x] = 0 if best is None else labels[best] + 1
    return values


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 6),
    st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
    st.booleans(),
    st.sampled_from([3, 300]),
)
def test_equals_a_loop_over_pixels(seed, count, threshold, keep_best, clusters):
    random = np.random.default_rng(seed)
    masks = random.random((count, 5, 7)) < 0.5
    scores = random.choice([0.0, 0.3, 0.5, 0.7, 0.9, 0.95, 1.0], count).astype(np.float32)
    labels = random.integers(0, clusters, count)
    (found,) = refine([Instances.from_masks(masks, scores=scores, labels=labels)], threshold=threshold, keep_best=keep_best)
    assert found.values.tolist() == literal(masks, scores, labels, threshold, keep_best).tolist()


def test_a_score_equal_to_the_threshold_is_not_above_it():
    scores = np.array([0.9, 0.90001, 0.5], np.float32)
    assert confident(scores, 0.9, keep_best=True).tolist() == [1]


@given(st.lists(st.sampled_from([0.1, 0.5, 0.9, 0.95]), max_size=6), st.sampled_from([0.5, 0.9, 1.0]))
def test_at_least_is_the_authors_walk_down_the_scores(scores, threshold):
    """They stop at the first score below the threshold, and keep the first whatever it is."""
    walked = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if np.float32(scores[i]) < np.float32(threshold):
            walked = walked or [i]
            break
        walked.append(i)
    found = confident(np.array(scores, np.float32), threshold, keep_best=True, equal=True)
    assert found.tolist() == sorted(walked)


def test_variants_of_table_s1_reach_the_label_map():
    pixels = np.full((20, 30, 3), 230, np.uint8)
    pixels[6:14, 8:20] = 40
    pixels += np.random.default_rng(0).integers(0, 20, pixels.shape).astype(np.uint8)
    mask = np.zeros((1, 20, 30), bool)
    mask[0, 8:10, 9:12] = True
    one = Instances.from_masks(mask, labels=[2], scores=[0.9], boxes=np.array([[5, 3, 25, 17]], np.float32))
    images = Images([ImageRecord("a", 20, 30)], lambda _record: pixels)

    def area(**settings):
        (found,) = Confidence(ConfidenceConfig(**settings), Context()).refine(images, [one])
        assert set(np.unique(found.values)) <= {0, 3}
        return (found.values == 3).sum()

    assert area() == 6
    assert area(pixels="box") == 20 * 14
    assert area(pixels="grabcut") == 8 * 12
    assert area(keep_best=False) == 0
    assert area(keep_best=False, comparison="at-least") == 6


def test_overlap_is_painted_by_the_rule():
    masks = np.zeros((2, 4, 4), bool)
    masks[0, 2:, :2], masks[1, 2:, 1:] = True, True
    both = Instances.from_masks(masks, labels=[0, 1], scores=[0.95, 0.92])
    (wins,) = refine([both])
    (skipped,) = refine([both], overlap="skip-overlapping")
    (reference,) = refine([both], overlap="authors")
    assert [found.values[3].tolist() for found in (wins, skipped, reference)] == [[1, 1, 2, 2], [1, 1, 0, 0], [1, 2, 2, 2]]


def test_the_best_is_kept_where_none_is_confident_and_only_if_asked():
    scores = np.array([0.2, 0.6, 0.6], np.float32)
    assert confident(scores, 0.9, keep_best=True).tolist() == [1]
    assert confident(scores, 0.9, keep_best=False).tolist() == []


def test_images_without_instances_are_background_and_order_is_kept():
    one = Instances.from_masks(np.ones((1, 2, 3), bool), labels=[4])
    maps = refine([Instances.empty(5, 6), one, Instances.empty(1, 1)])
    assert [found.size for found in maps] == [(5, 6), (2, 3), (1, 1)]
    assert not maps[0].values.any()
    assert (maps[1].values == 5).all()


def test_masks_without_a_cluster_are_an_error_and_so_are_label_maps():
    with pytest.raises(StageError, match="without a cluster"):
        refine([Instances.from_masks(np.ones((1, 2, 3), bool))])
    with pytest.raises(StageError, match="not label maps"):
        refine([LabelMap.background(2, 3)])
