import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp_core.data.instances import Instances
from mdp_core.errors import DataError
from mdp_core.evaluation.localisation import Localisation, LocalisationResult, box_ious, mask_ious


def literal_mask_iou(a, b):
    both = either = 0
    for y in range(a.shape[0]):
        for x in range(a.shape[1]):
            both += bool(a[y, x] and b[y, x])
            either += bool(a[y, x] or b[y, x])
    return both / either if either else 0.0


def literal_box_iou(a, b):
    """Counts the pixels that the two boxes (whole numbers) cover."""
    cells = [{(x, y) for x in range(int(box[0]), int(box[2])) for y in range(int(box[1]), int(box[3]))} for box in (a, b)]
    either = cells[0] | cells[1]
    return len(cells[0] & cells[1]) / len(either) if either else 0.0


def literal_result(images):
    hit = hit_any = corloc = images_with_objects = skipped = empty = masks = 0
    best_sum = 0.0
    for found, truth in images:
        if len(truth) == 0:
            skipped += 1
            continue
        images_with_objects += 1
        masks += len(found)
        if len(found) == 0:
            empty += 1
            continue
        first = next(i for i in range(len(found)) if found.scores[i] == max(found.scores))
        table = [[literal_mask_iou(found.mask(i), truth.mask(j)) for j in range(len(truth))] for i in range(len(found))]
        hit += any(iou > 0.5 for iou in table[first])
        hit_any += any(iou > 0.5 for line in table for iou in line)
        best_sum += max(iou for line in table for iou in line)
        corloc += any(literal_box_iou(found.boxes[first], box) >= 0.5 for box in truth.boxes)
    n = images_with_objects
    return LocalisationResult(n, skipped, empty, masks, hit / n, hit_any / n, best_sum / n, corloc / n) if n else None


def random_instances(rng, n, size=(14, 17)):
    masks = np.zeros((n, *size), bool)
    for mask in masks:
        (y0, y1), (x0, x1) = np.sort(rng.integers(0, size[0] + 1, 2)), np.sort(rng.integers(0, size[1] + 1, 2))
        mask[y0:y1, x0:x1] = rng.random((y1 - y0, x1 - x0)) < 0.8
    return Instances.from_masks(masks, scores=np.round(rng.random(n), 1))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_scores_are_those_of_the_literal_loop(seed):
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(6):
        truth = random_instances(rng, int(rng.integers(0, 4)))
        found = random_instances(rng, int(rng.integers(0, 3)))
        if len(truth) and rng.random() < 0.6:  # near misses and hits
            noisy = truth.to_masks() ^ (rng.random((len(truth), 14, 17)) < rng.choice([0.02, 0.15]))
            found = Instances.from_masks(np.concatenate([noisy, found.to_masks()]))
        images.append((found, truth))
    counted = Localisation()
    for index, (found, truth) in enumerate(images):
        counted.add(str(index), found, truth)
    result, expected = counted.result(), literal_result(images)
    if expected is None:
        assert result is None
    else:
        assert result.to_json() == pytest.approx(expected.to_json())


def test_exactly_one_half_is_no_hit_but_is_localised():
    truth = np.zeros((1, 4, 4), bool)
    truth[0, :2] = True
    found = np.ones((1, 4, 4), bool)
    counted = Localisation()
    counted.add("a", Instances.from_masks(found), Instances.from_masks(truth))
    result = counted.result()
    assert (result.hit, result.hit_any, result.mean_best_iou, result.corloc) == (0.0, 0.0, 0.5, 1.0)


def test_the_first_mask_is_the_most_confident():
    masks = np.zeros((2, 4, 4), bool)
    masks[0, :2], masks[1, 2:] = True, True
    truth = Instances.from_masks(masks[:1])
    counted = Localisation()
    counted.add("a", Instances.from_masks(masks, scores=[0.2, 0.9]), truth)
    counted.add("b", Instances.from_masks(masks, scores=[0.9, 0.9]), truth)
    result = counted.result()
    assert (result.hit, result.hit_any, result.mean_best_iou, result.corloc) == (0.5, 1.0, 1.0, 0.5)


def test_ious_of_empty_masks_and_boxes_are_zero():
    empty = Instances.from_masks(np.zeros((1, 3, 3), bool))
    assert mask_ious(empty, empty).tolist() == [[0.0]]
    assert box_ious(np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32)).tolist() == [[0.0]]
    assert mask_ious(empty, Instances.empty(3, 3)).shape == (1, 0)


def test_no_objects_means_no_result():
    counted = Localisation()
    counted.add("a", Instances.from_masks(np.ones((1, 3, 3), bool)), Instances.empty(3, 3))
    assert counted.result() is None


def test_sizes_must_agree():
    with pytest.raises(DataError, match="img: the masks are 3×2 px, the true objects 2×3 px"):
        Localisation().add("img", Instances.empty(2, 3), Instances.empty(3, 2))


def test_json_round_trip():
    result = LocalisationResult(3, 1, 0, 5, 0.5, 0.75, 0.4, 1.0)
    assert LocalisationResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    assert result.metrics() == {"hit": 0.5, "hit_any": 0.75, "mean_best_iou": 0.4, "corloc": 1.0}
    with pytest.raises(DataError, match="not a localisation result"):
        LocalisationResult.from_json({"images": 1})
