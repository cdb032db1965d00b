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
from mdp_core.evaluation.matching import Matching, identity, majority, match
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
        {
            "miou": 1.75 / 3,
            "miou_absent_zero": 1.75 / 4,
            "pixel_accuracy": 5 / 6,
            "iou/background": 0.75,
            "iou/cat": 0.0,
            "iou/cow": 1.0,
        }
    )
    assert result.absent == ("dog",)


def test_without_an_absent_class_the_two_means_are_one():
    truth = LabelMap(np.array([[0, 0, 1, 1]], np.uint8))
    result = evaluate(counted([(LabelMap(np.array([[0, 1, 1, 1]], np.uint8)), truth)], 1, 2), NAMES[:2], split="val", seed=0)
    assert result.absent == ()
    assert result.miou == result.miou_absent_zero == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert "miou_absent_zero" not in result.metrics()


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


def literal_pooled_scores(pairs, class_of_label, classes):
    """Renames each pixel to the class of its label, then counts sets of pixels."""
    renamed, truths = [], []
    for prediction, truth in pairs:
        for label, true in zip(prediction.values.ravel().tolist(), truth.values.ravel().tolist(), strict=True):
            if true != 255:
                renamed.append(class_of_label[label] if label != 255 else None)
                truths.append(true)
    ious = []
    for c in range(classes):
        predicted = {i for i, r in enumerate(renamed) if r == c}
        true = {i for i, t in enumerate(truths) if t == c}
        ious.append(len(predicted & true) / len(predicted | true) if true else None)
    return ious, sum(r == t for r, t in zip(renamed, truths, strict=True)) / len(truths)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.sampled_from([None, 0, 1, 2, 3]), min_size=6, max_size=6))
def test_any_matching_pools_the_labels_of_a_class(seed, class_of_label):
    pairs = random_pairs(seed)
    matching = Matching(tuple(class_of_label), 4, (0,) * 6, rule="majority", unit="objects", split="train")
    result = evaluate(counted(pairs, 5, 4), NAMES, split="val", seed=7, matching=matching)
    ious, accuracy = literal_pooled_scores(pairs, class_of_label, 4)
    assert result.iou == pytest.approx(ious)
    assert result.pixel_accuracy == pytest.approx(accuracy)
    assert result.class_of_label == tuple(class_of_label)
    by_class, counts = result.by_class(), np.array(result.counts)
    assert by_class.shape == (5, 4)
    assert by_class.sum() == counts.sum()
    assert by_class[-1].tolist() == counts[[c is None for c in class_of_label]].sum(axis=0).tolist()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_majority_is_never_less_accurate_than_one_to_one(seed):
    confusion = counted(random_pairs(seed), 5, 4)
    one, many = (evaluate(confusion, NAMES, split="v", seed=0, matching=m) for m in (None, majority(confusion)))
    assert many.pixel_accuracy >= one.pixel_accuracy
    assert many.protocol.matching == "majority, pixels, split v"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_relabelling_clusters_changes_no_score(seed):
    rng = np.random.default_rng(seed)
    pairs = random_pairs(seed)
    names = rng.permutation(6)
    other = [(LabelMap(np.append(names, [255] * 250)[p.values].astype(np.uint8)), t) for p, t in pairs]
    for rule in (majority, match):
        before, after = (counted(p, 5, 4) for p in (pairs, other))
        first, second = (evaluate(c, NAMES, split="v", seed=0, matching=rule(c)) for c in (before, after))
        assert second.pixel_accuracy == first.pixel_accuracy
        if (
            rule is majority or len(set(before.counts.ravel().tolist())) == before.counts.size
        ):  # otherwise equals may fall otherwise
            assert second.iou == first.iou


@pytest.mark.parametrize("rule", [match, majority, identity])
def test_a_perfect_prediction_scores_one(rule):
    truth = LabelMap(np.array([[0, 0, 1, 2, 3, 3, 255]], np.uint8))
    confusion = counted([(LabelMap(np.array([[0, 0, 1, 2, 3, 3, 0]], np.uint8)), truth)], 3, 4)
    result = evaluate(confusion, NAMES, split="v", seed=0, matching=rule(confusion))
    assert result.iou == (1.0,) * 4
    assert result.miou == result.pixel_accuracy == 1.0


def test_over_clustering_loses_nothing_with_majority_and_much_one_to_one():
    truth = np.repeat(np.arange(4, dtype=np.uint8), 10)[None]
    parts = (truth * 5 + np.arange(40, dtype=np.uint8) % 5)[None, 0]  # five clusters a class
    confusion = counted([(LabelMap(parts), LabelMap(truth))], 19, 4)
    assert evaluate(confusion, NAMES, split="v", seed=0, matching=majority(confusion)).miou == 1.0
    assert evaluate(confusion, NAMES, split="v", seed=0).miou == pytest.approx(0.2)


def test_matching_on_objects_of_another_split_is_named():
    confusion = counted(random_pairs(1), 5, 4)
    matching = Matching((0, 2, None, 3, 1, 0), 4, (0,) * 6, unit="objects", split="train")
    result = evaluate(confusion, NAMES, split="val", seed=7, matching=matching)
    assert result.protocol.matching == "hungarian, objects, split train"
    assert (result.protocol.matching_rule, result.protocol.matching_unit) == ("hungarian", "objects")
    assert result.protocol.matching_split == "train"
    assert "matching clusters with classes (split train)" in result.protocol.ground_truth
    pixels = confusion.counts[[0, 5], 0]
    assert result.cluster_of_class == ((0, 5)[int(pixels.argmax())], 4, 1, 3)  # by pixels of the evaluated split
    named = evaluate(confusion, NAMES, split="val", seed=7, matching=matching, matching_words="by hand")
    assert named.protocol.matching == "by hand"


def test_a_probe_is_matched_with_nothing():
    confusion = counted(random_pairs(1, clusters=3), 3, 4)
    used = ("probe: it learns from the class maps",)
    result = evaluate(confusion, NAMES, split="val", seed=7, matching=identity(confusion), labels_used=used)
    assert result.class_of_label == result.cluster_of_class == (0, 1, 2, 3)
    assert result.protocol.matching == "none, labels are classes"
    assert result.protocol.matching_split is None
    assert result.protocol.ground_truth == (*used, "scoring (split val)")


def test_a_chosen_checkpoint_is_a_use_of_ground_truth():
    confusion = counted(random_pairs(1), 5, 4)
    protocol = evaluate(confusion, NAMES, split="val", seed=7, checkpoint="best-on-labels").protocol
    assert protocol.checkpoint == "best-on-labels"
    assert protocol.ground_truth[1:] == ("choosing the checkpoint (split val)", "scoring (split val)")
    assert evaluate(confusion, NAMES, split="val", seed=7).protocol.ground_truth[1:] == ("scoring (split val)",)


def test_images_without_ground_truth_are_left_out_and_counted():
    confusion = counted(random_pairs(1), 5, 4)
    before = evaluate(confusion, NAMES, split="val", seed=0)
    confusion.add("bare", LabelMap.background(3, 3), None)
    after = evaluate(confusion, NAMES, split="val", seed=0)
    assert (after.iou, after.protocol.images, after.protocol.without_truth) == (before.iou, 4, 1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_json_round_trip(seed):
    result = evaluate(counted(random_pairs(seed), 5, 4), NAMES, split="val", seed=seed, labels_used=("x",))
    data = result.to_json()
    assert json.loads(json.dumps(data)) == data
    assert SemanticResult.from_json(json.loads(json.dumps(data))) == result
    assert sum(map(sum, data["counts"])) + sum(data["unpredicted"]) == sum(result.class_pixels)


def test_format_1_can_be_read():
    result = evaluate(counted(random_pairs(1), 5, 4), NAMES, split="val", seed=7)
    old = json.loads(json.dumps(result.to_json()))
    del old["class_of_label"]
    for name in ("matching_rule", "matching_unit", "matching_split", "without_truth"):
        del old["protocol"][name]
    assert SemanticResult.from_json({**old, "format": 1}) == result


def test_what_a_run_adds_to_a_result_is_passed_over():
    result = evaluate(counted(random_pairs(1), 5, 4), NAMES, split="val", seed=7)
    record = {"title": "segmenter", "stage": "segmenter", "protocol_name": "clustering", **result.to_json()}
    assert SemanticResult.from_json(record) == result


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"format": 99},
        {"format": 2},
        {"format": 2, "protocol": 3},
        {"format": 1},
        {"format": 1, "protocol": 3},
        {"format": 1, "protocol": {"x": 1}},
    ],
)
def test_foreign_json_is_refused(data):
    with pytest.raises(DataError, match="semantic result"):
        SemanticResult.from_json(data)


def test_no_labelled_pixel_is_an_error():
    confusion = Confusion(2, 4)
    confusion.add("i", LabelMap.background(2, 2), LabelMap(np.full((2, 2), 255, np.uint8)))
    with pytest.raises(DataError, match="split test: the ground truth of its 1 images has no labelled pixel"):
        evaluate(confusion, NAMES, split="test", seed=0)


def test_an_empty_split_and_one_without_ground_truth_are_errors():
    confusion = Confusion(2, 4)
    with pytest.raises(DataError, match="split test: none of its 0 images has a label map"):
        evaluate(confusion, NAMES, split="test", seed=0)
    confusion.add("i", LabelMap.background(2, 2), None)
    with pytest.raises(DataError, match="split test: none of its 1 images has a label map"):
        evaluate(confusion, NAMES, split="test", seed=0)


def test_arguments_must_belong_together():
    confusion = counted(random_pairs(1), 5, 4)
    with pytest.raises(ValueError, match="3 class names for 4 classes"):
        evaluate(confusion, NAMES[:3], split="val", seed=0)
    with pytest.raises(ValueError, match="matching of 2 labels and 4 classes"):
        evaluate(confusion, NAMES, split="val", seed=0, matching=Matching((0, 1), 4, (0, 0)))


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


@pytest.mark.skipif("VOC_ROOT" not in os.environ, reason="VOC_ROOT is not set")
def test_mious_of_pascal_are_those_of_a_direct_computation():
    """Coarse, shifted and over-clustered predictions of real class maps, scored class by class on all pixels at once."""
    folder = Path(os.environ["VOC_ROOT"]) / "VOC2012" / "SegmentationClass"
    paths = sorted(folder.glob("*.png"))[:60]
    if not paths:
        pytest.skip(f"{folder} holds no label maps")
    confusion, labels, truths = Confusion(40, 21), [], []
    for path in paths:
        truth = LabelMap.from_png(path)
        height, width = truth.size
        coarse = np.kron(truth.values[::16, ::16], np.ones((16, 16), np.uint8))[:height, :width]
        coarse = np.roll(np.where(coarse == 255, 0, coarse), 9, axis=1)
        split = np.where((coarse > 0) & (np.indices(truth.size)[0] % 64 < 32), coarse + 20, coarse).astype(np.uint8)
        confusion.add(path.stem, LabelMap(split), truth)
        labels.append(split.ravel())
        truths.append(truth.values.ravel())
    label, true = np.concatenate(labels), np.concatenate(truths)
    label, true = label[true != 255], true[true != 255]
    assert int(confusion.counts.sum()) == len(true)
    for rule in (match, majority):
        result = evaluate(confusion, [str(c) for c in range(21)], split="val", seed=0, matching=rule(confusion))
        renamed = np.array([-1 if c is None else c for c in result.class_of_label])[label]
        ious = [((renamed == c) & (true == c)).sum() / ((renamed == c) | (true == c)).sum() for c in np.unique(true)]
        assert result.miou == pytest.approx(np.mean(ious), abs=1e-12)
        assert result.pixel_accuracy == pytest.approx((renamed == true).mean(), abs=1e-12)
