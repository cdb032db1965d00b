import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp_core.data.label_map import LabelMap
from mdp_core.errors import DataError
from mdp_core.evaluation.confusion import Confusion
from mdp_core.evaluation.matching import Matching
from mdp_core.evaluation.semantic import SemanticResult, evaluate

NAMES = ("background", "cat", "cow", "dog")


def counted(pairs, clusters, classes):
    confusion = Confusion(clusters, classes)
    for index, (prediction, truth) in enumerate(pairs):
        confusion.add(str(index), prediction, truth)
    return confusion


def literal_scores(pairs, cluster_of_class, classes):
    """IoU per class and accuracy, one pixel at a time over all images."""
    ious = []
    right = total = 0
    for c in range(classes):
        both = either = exists = 0
        for prediction, truth in pairs:
            for label, true in zip(prediction.values.ravel().tolist(), truth.values.ravel().tolist(), strict=True):
                if true == 255:
                    continue
                is_true, is_predicted = true == c, cluster_of_class[c] is not None and label == cluster_of_class[c]
                both += is_true and is_predicted
                either += is_true or is_predicted
                exists += is_true
                right += is_true and is_predicted
                total += is_true
        ious.append(both / either if exists else None)
    present = [iou for iou in ious if iou is not None]
    return ious, sum(present) / len(present), right / total


def random_pairs(seed, images=4, clusters=5, classes=4):
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(images):
        true = rng.integers(0, classes, (6, 7)).astype(np.uint8)
        label = np.where(rng.random((6, 7)) < 0.6, (true + 1) % (clusters + 1), rng.integers(0, clusters + 1, (6, 7))).astype(
            np.uint8
        )
        label[rng.random((6, 7)) < 0.1] = 255
        true[rng.random((6, 7)) < 0.1] = 255
        true[true == 2] = 0 if seed % 3 == 0 else 2  # sometimes a class is absent
        pairs.append((LabelMap(label), LabelMap(true)))
    return pairs


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_scores_are_those_of_a_loop_over_pixels(seed):
    pairs = random_pairs(seed)
    result = evaluate(counted(pairs, 5, 4), NAMES, split="val", seed=1)
    ious, miou, accuracy = literal_scores(pairs, result.cluster_of_class, 4)
    assert result.iou == pytest.approx(ious)
    assert result.miou == pytest.approx(miou)
    assert result.pixel_accuracy == pytest.approx(accuracy)
    assert (result.iou[2] is None) == (seed % 3 == 0)


def test_pooled_over_the_split_and_not_a_mean_over_images():
    big = LabelMap(np.ones((10, 10), np.uint8)), LabelMap(np.ones((10, 10), np.uint8))
    small = LabelMap(np.zeros((1, 10), np.uint8)), LabelMap(np.ones((1, 10), np.uint8))
    result = evaluate(counted([big, small], 1, 2), NAMES[:2], split="val", seed=0)
    assert result.iou == (None, pytest.approx(100 / 110))
    assert result.miou == pytest.approx(100 / 110)


def test_a_class_without_a_label_scores_zero():
    truth = LabelMap(np.array([[0, 0, 0, 1, 2, 2]], np.uint8))
    prediction = LabelMap(np.array([[0, 0, 0, 0, 1, 1]], np.uint8))
    result = evaluate(counted([(prediction, truth)], 1, 4), NAMES, split="val", seed=0)
    assert result.cluster_of_class == (0, None, 1, None)
    assert result.iou == (0.75, 0.0, 1.0, None)
    assert result.miou == pytest.approx(1.75 / 3)
    assert result.metrics() == pytest.approx(
        {"miou": 1.75 / 3, "pixel_accuracy": 5 / 6, "iou/background": 0.75, "iou/cat": 0.0, "iou/cow": 1.0}
    )


def test_saying_ignore_is_wrong():
    truth = LabelMap(np.array([[1, 1, 1, 1]], np.uint8))
    result = evaluate(
        counted([(LabelMap(np.array([[1, 255, 255, 255]], np.uint8)), truth)], 1, 2), NAMES[:2], split="v", seed=0
    )
    assert result.miou == result.pixel_accuracy == 0.25
    assert result.unpredicted == (0, 3)
    assert result.class_pixels == (0, 4)


def test_protocol_says_how():
    confusion = counted(random_pairs(1), 5, 4)
    protocol = evaluate(confusion, NAMES, split="val", seed=7, labels_used=("prior: boxes",), dense_crf=True).protocol
    assert protocol.matching == "hungarian, pixels, split val"
    assert protocol.ground_truth == ("prior: boxes", "matching clusters with classes (split val)", "scoring (split val)")
    assert (protocol.images, protocol.seed, protocol.checkpoint, protocol.dense_crf) == (4, 7, "last", True)
    assert protocol.background_included


def test_matching_from_another_split():
    confusion = counted(random_pairs(1), 5, 4)
    matching = Matching((5, 4, None, 3), 0)
    result = evaluate(confusion, NAMES, split="val", seed=7, matching=matching, matching_split="train")
    assert result.cluster_of_class == (5, 4, None, 3)
    assert result.iou == pytest.approx(literal_scores(random_pairs(1), (5, 4, None, 3), 4)[0])
    assert result.protocol.matching == "hungarian, pixels, split train"
    assert "matching clusters with classes (split train)" in result.protocol.ground_truth


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_json_round_trip(seed):
    result = evaluate(counted(random_pairs(seed), 5, 4), NAMES, split="val", seed=seed, labels_used=("x",))
    data = result.to_json()
    assert json.loads(json.dumps(data)) == data
    assert SemanticResult.from_json(json.loads(json.dumps(data))) == result
    assert sum(map(sum, data["counts"])) + sum(data["unpredicted"]) == sum(result.class_pixels)


@pytest.mark.parametrize(
    "data", [{}, {"format": 99}, {"format": 1}, {"format": 1, "protocol": 3}, {"format": 1, "protocol": {"x": 1}}]
)
def test_foreign_json_is_refused(data):
    with pytest.raises(DataError, match="semantic result"):
        SemanticResult.from_json(data)


def test_no_labelled_pixel_is_an_error():
    with pytest.raises(DataError, match="split test: the ground truth of its 0 images has no labelled pixel"):
        evaluate(Confusion(2, 4), NAMES, split="test", seed=0)


def test_arguments_must_belong_together():
    confusion = counted(random_pairs(1), 5, 4)
    with pytest.raises(ValueError, match="3 class names for 4 classes"):
        evaluate(confusion, NAMES[:3], split="val", seed=0)
    with pytest.raises(ValueError, match="come together"):
        evaluate(confusion, NAMES, split="val", seed=0, matching=Matching((0,) * 4, 0))
    with pytest.raises(ValueError, match="matching of 2 classes"):
        evaluate(confusion, NAMES, split="val", seed=0, matching=Matching((0, 1), 0), matching_split="train")


@pytest.mark.skipif("VOC_ROOT" not in os.environ, reason="VOC_ROOT is not set")
def test_permuted_truth_of_pascal_scores_one():
    folder = Path(os.environ["VOC_ROOT"]) / "VOC2012" / "SegmentationClass"
    paths = sorted(folder.glob("*.png"))[:12]
    if not paths:
        pytest.skip(f"{folder} holds no label maps")
    permutation = np.random.default_rng(3).permutation(21)
    confusion = Confusion(20, 21)
    for path in paths:
        truth = LabelMap.from_png(path)
        renamed = np.where(truth.values == 255, 255, permutation[np.minimum(truth.values, 20)]).astype(np.uint8)
        confusion.add(path.stem, LabelMap(renamed), truth)
    result = evaluate(confusion, [str(c) for c in range(21)], split="val", seed=0)
    assert result.miou == result.pixel_accuracy == 1.0
    assert 1 < sum(iou is not None for iou in result.iou) < 21
    assert all(cluster in (None, permutation[c]) for c, cluster in enumerate(result.cluster_of_class))
