import json
import time
from itertools import permutations
from math import comb, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp_core.data.instances import Instances
from mdp_core.data.label_map import LabelMap
from mdp_core.errors import DataError
from mdp_core.evaluation.clusters import ClustersResult, ObjectCounts, object_matching
from mdp_core.evaluation.confusion import Confusion
from mdp_core.evaluation.semantic import evaluate
from mdp_core.stages.dataset import TrueBoxes

NAMES = ("background", "cat", "cow", "dog")


def boxed(boxes, labels, size=(40, 50)):
    """Instances whose masks are their boxes."""
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return Instances.from_masks(masks, labels=labels)


def true_boxes(boxes, labels):
    return TrueBoxes(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int32))


def random_boxes(rng, n, size=(40, 50)):
    corners = [(np.sort(rng.choice(size[1], 2, False)), np.sort(rng.choice(size[0], 2, False))) for _ in range(n)]
    return [(int(x[0]), int(y[0]), int(x[1]), int(y[1])) for x, y in corners]


def literal_class(box, truth):
    """The authors' rule: the largest IoU wins, the first box where nothing overlaps; counted in cells."""
    cells = lambda b: {(x, y) for x in range(int(b[0]), int(b[2])) for y in range(int(b[1]), int(b[3]))}  # noqa: E731
    best, index = -1.0, 0
    for i, other in enumerate(truth.boxes):
        iou = len(cells(box) & cells(other)) / len(cells(box) | cells(other))
        if iou > best:
            best, index = iou, i
    return int(truth.labels[index]) + 1, best == 0.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_counts_are_those_of_the_literal_rule(seed):
    rng = np.random.default_rng(seed)
    objects = ObjectCounts(4, NAMES)
    counts, none = np.zeros((4, 4), int), 0
    for index in range(6):
        boxes = random_boxes(rng, int(rng.integers(0, 5)))
        found = boxed(boxes, rng.integers(0, 4, len(boxes)))
        n = int(rng.integers(1, 4))
        truth = true_boxes(random_boxes(rng, n), rng.integers(0, 3, n))
        objects.add(str(index), found, truth)
        for box, label in zip(boxes, found.labels, strict=True):
            true, alone = literal_class(box, truth)
            counts[label, true] += 1
            none += alone
    assert objects.counts.tolist() == counts.tolist()
    if counts.sum():
        result = objects.result(split="train", seed=3)
        assert (result.masks, result.without_overlap, result.images) == (counts.sum(), none, 6)


def test_a_mask_that_overlaps_nothing_has_the_class_of_the_first_box():
    objects = ObjectCounts(2, NAMES)
    truth = true_boxes([(0, 0, 5, 5), (10, 10, 20, 20)], [2, 0])
    objects.add("i", boxed([(30, 30, 35, 35), (10, 10, 20, 20)], [0, 0]), truth)
    result = objects.result(split="train", seed=0)
    assert result.counts == ((0, 1, 0, 1), (0, 0, 0, 0))
    assert (result.masks, result.without_overlap) == (2, 1)
    assert "1 masks overlap no true box." in result.notes()


def test_an_empty_mask_overlaps_nothing_by_boxes_and_is_left_out_by_pixels():
    empty = Instances.from_masks(np.zeros((1, 40, 50), bool), labels=[1])
    by_boxes, by_pixels = ObjectCounts(2, NAMES), ObjectCounts(2, NAMES)
    by_boxes.add("i", empty, true_boxes([(0, 0, 5, 5)], [1]))
    assert by_boxes.result(split="train", seed=0).without_overlap == 1
    by_pixels.add_pixels("i", empty, LabelMap.background(40, 50))
    by_pixels.add_pixels("j", boxed([(0, 0, 5, 5)], [0]), LabelMap.background(40, 50))
    assert (by_pixels.result(split="train", seed=0).left_out, by_pixels.counts.sum()) == (1, 1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_by_pixels_the_class_of_most_pixels_counts(seed):
    rng = np.random.default_rng(seed)
    objects, counts = ObjectCounts(4, NAMES), np.zeros((4, 4), int)
    left_out = 0
    for index in range(4):
        values = np.kron(rng.integers(0, 4, (4, 5)), np.ones((10, 10))).astype(np.uint8)
        values[rng.random(values.shape) < 0.3] = 255
        values[:12] = 255
        boxes = random_boxes(rng, 3)
        found = boxed(boxes, rng.integers(0, 4, 3))
        objects.add_pixels(str(index), found, LabelMap(values))
        for (x0, y0, x1, y1), label in zip(boxes, found.labels, strict=True):
            inside = [int(v) for v in values[y0:y1, x0:x1].ravel() if v != 255]
            if inside:
                counts[label, min(set(inside), key=lambda v: (-inside.count(v), v))] += 1
            else:
                left_out += 1
    assert objects.counts.tolist() == counts.tolist()
    if counts.sum():
        result = objects.result(split="train", seed=0)
        assert (result.rule, result.left_out) == ("pixels", left_out)


def counted(table):
    """Object counts of a table of (cluster, object class), one mask an image of one box."""
    table = np.array(table)
    objects = ObjectCounts(len(table), ["background", *(f"class {c}" for c in range(table.shape[1]))])
    for cluster, row in enumerate(table):
        for true, number in enumerate(row):
            for _ in range(number):
                objects.add("i", boxed([(0, 0, 9, 9)], [cluster]), true_boxes([(0, 0, 9, 9)], [true]))
    return objects


def literal_acc(table):
    wide = np.pad(table, ((0, 0), (0, max(0, len(table) - table.shape[1]))))
    return max(sum(wide[c, t] for c, t in enumerate(p)) for p in permutations(range(wide.shape[1]), len(wide))) / table.sum()


def literal_nmi(table):
    n = table.sum()
    entropy = lambda sums: -sum(s / n * log(s / n) for s in sums if s)  # noqa: E731
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    mutual = sum(
        table[i, j] / n * log(n * table[i, j] / (rows[i] * columns[j])) for i, j in np.ndindex(table.shape) if table[i, j]
    )
    mean = (entropy(rows) + entropy(columns)) / 2
    return mutual / mean if mean else 1.0


def literal_ari(table):
    pairs = lambda numbers: sum(comb(int(n), 2) for n in np.ravel(numbers))  # noqa: E731
    both, rows, columns, every = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0)), comb(int(table.sum()), 2)
    expected, most = rows * columns / every, (rows + columns) / 2
    return (both - expected) / (most - expected) if most != expected else 1.0


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 10**6))
def test_scores_are_those_of_their_definitions(clusters, classes, seed):
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 4, (clusters, classes))
    table[0, 0] += 2
    result = counted(table).result(split="train", seed=0)
    assert result.acc == pytest.approx(literal_acc(table))
    assert result.nmi == pytest.approx(literal_nmi(table), abs=1e-12)
    assert result.ari == pytest.approx(literal_ari(table))
    assert result.purity == pytest.approx(table.max(axis=1).sum() / table.sum())
    assert result.purity >= result.acc
    assert result.metrics() == {"acc": result.acc, "nmi": result.nmi, "ari": result.ari, "purity": result.purity}


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_relabelling_clusters_changes_no_score(seed):
    rng = np.random.default_rng(seed)
    table = 2 ** rng.permutation(12).reshape(3, 4)  # no two sums are alike: the best matching is one
    order = rng.permutation(3)
    both = []
    for part in (table, table[order]):
        objects = ObjectCounts(3, ["background", *"abcd"])
        objects.counts[:, 1:] += part
        both.append(objects.result(split="train", seed=0))
    first, second = both
    assert second.metrics() == pytest.approx(first.metrics())
    assert object_matching(second).class_of_label[1:] == tuple(object_matching(first).class_of_label[1:][i] for i in order)


def test_a_perfect_clustering_scores_one():
    result = counted([[0, 3, 0], [0, 0, 2], [4, 0, 0]]).result(split="train", seed=0)
    assert result.metrics() == pytest.approx(dict.fromkeys(("acc", "nmi", "ari", "purity"), 1.0))
    matching = object_matching(result)
    assert matching.class_of_label == (0, 2, 3, 1)
    assert (matching.rule, matching.unit, matching.split) == ("hungarian", "objects", "train")
    assert matching.shared == (0, 3, 2, 4)


def test_matching_is_one_to_one_up_to_as_many_clusters_as_object_classes():
    matching = object_matching(counted([[5, 4], [9, 0]]).result(split="train", seed=0))
    assert matching.class_of_label == (0, 2, 1)
    matching = object_matching(counted([[5, 0], [9, 0]]).result(split="train", seed=0))
    assert matching.class_of_label == (0, None, 1)  # shares nothing with what is left


def test_matching_is_by_majority_where_there_are_more_clusters():
    matching = object_matching(counted([[5, 4], [9, 0], [2, 2], [0, 0]]).result(split="train", seed=0))
    assert matching.class_of_label == (0, 1, 1, 1, None)
    assert matching.rule == "majority"
    assert matching.cluster_of_class == (0, 2, None)


def test_the_matching_scores_label_maps_of_another_split():
    matching = object_matching(counted([[0, 3, 0], [0, 0, 2], [4, 0, 0]]).result(split="train", seed=0))
    truth = LabelMap(np.array([[0, 1, 2, 3]], np.uint8))
    confusion = Confusion(3, 4)
    confusion.add("i", LabelMap(np.array([[0, 3, 1, 2]], np.uint8)), truth)
    result = evaluate(confusion, NAMES, split="val", seed=0, matching=matching)
    assert result.miou == 1.0
    assert result.protocol.matching == "hungarian, objects, split train"
    assert result.protocol.matching_split == "train"


def test_images_without_truth_and_without_objects_are_left_out_and_counted():
    objects = ObjectCounts(2, NAMES)
    objects.add("i", boxed([(0, 0, 5, 5)], [0]), true_boxes([(0, 0, 5, 5)], [1]))
    objects.add("j", boxed([(0, 0, 5, 5)], [0]), None)
    objects.add("k", boxed([(0, 0, 5, 5), (0, 0, 7, 7)], [0, 1]), true_boxes([], []))
    objects.add("l", Instances.empty(40, 50), true_boxes([(0, 0, 5, 5)], [1]))
    result = objects.result(split="train", seed=5, labels_used=("prior: boxes",))
    assert (result.masks, result.images, result.without_truth, result.left_out) == (1, 3, 1, 2)
    assert result.ground_truth == ("prior: boxes", "naming the class of each mask (split train)", "scoring (split train)")
    assert any("2 masks could have no class" in note for note in result.notes())


def test_an_empty_split_is_an_error():
    with pytest.raises(DataError, match=r"split train: no clustered mask .* \(0 images with, 0 without; 0 masks left out\)"):
        ObjectCounts(2, NAMES).result(split="train", seed=0)
    objects = ObjectCounts(2, NAMES)
    objects.add("j", boxed([(0, 0, 5, 5)], [0]), None)
    with pytest.raises(DataError, match="0 images with, 1 without"):
        objects.result(split="train", seed=0)


@pytest.mark.parametrize(
    ("labels", "truth", "message"),
    [
        ([-1], true_boxes([(0, 0, 5, 5)], [0]), "img: a mask has no cluster"),
        ([2], true_boxes([(0, 0, 5, 5)], [0]), "img: a mask is of cluster 2, but there are 2 clusters"),
        ([0], true_boxes([(0, 0, 5, 5)], [3]), r"img: a true box is of object class 3, .* classes 0\.\.2"),
        ([0], true_boxes([(0, 0, 5, 5)], [-1]), "img: a true box is of object class -1"),
        ([0], true_boxes([(0, 0, 90, 80)], [0]), "img: the image is 50×40 px, but its true boxes reach to 90, 80"),
        ([0], LabelMap.background(50, 40), "img: the masks are 50×40 px, the ground truth 40×50 px"),
        ([-1], LabelMap.background(40, 50), "img: a mask has no cluster"),
        ([0], LabelMap(np.full((40, 50), 4, np.uint8)), r"img: the ground truth holds class 4, .* classes 0\.\.3"),
    ],
)
def test_bad_input_is_named_and_counts_nothing(labels, truth, message):
    objects = ObjectCounts(2, NAMES)
    add = objects.add if isinstance(truth, TrueBoxes) else objects.add_pixels
    with pytest.raises(DataError, match=message):
        add("img", boxed([(0, 0, 5, 5)], labels), truth)
    assert objects.counts.sum() == 0


def test_boxes_may_end_a_little_beyond_the_image():
    objects = ObjectCounts(2, NAMES)
    objects.add("i", boxed([(0, 0, 5, 5)], [0]), true_boxes([(0, 0, 50.4, 40.9)], [0]))
    assert objects.counts.sum() == 1


def test_boxes_and_pixels_do_not_mix():
    objects = ObjectCounts(2, NAMES)
    objects.add("i", boxed([(0, 0, 5, 5)], [0]), true_boxes([(0, 0, 5, 5)], [0]))
    with pytest.raises(ValueError, match="not by both"):
        objects.add_pixels("j", boxed([(0, 0, 5, 5)], [0]), LabelMap.background(40, 50))
    with pytest.raises(ValueError, match="0 clusters"):
        ObjectCounts(0, NAMES)


def test_json_round_trip():
    result = counted([[5, 4], [9, 0]]).result(split="train", seed=0)
    data = result.to_json()
    assert json.loads(json.dumps(data)) == data
    assert ClustersResult.from_json({**json.loads(json.dumps(data)), "stage": "clusterer"}) == result
    for foreign in ({}, {**data, "format": 9}, {"format": 1}):
        with pytest.raises(DataError, match="not a clusters result"):
            ClustersResult.from_json(foreign)


def test_twenty_thousand_images_take_seconds():
    rng = np.random.default_rng(0)
    masks = boxed(random_boxes(rng, 3), [0, 1, 2])
    boxes = [true_boxes(random_boxes(rng, 5), rng.integers(0, 3, 5)) for _ in range(50)]
    objects = ObjectCounts(3, NAMES)
    before = time.process_time()
    for index in range(20_000):
        objects.add("i", masks, boxes[index % 50])
    result = objects.result(split="train", seed=0)
    assert result.masks == 60_000
    assert time.process_time() - before < 30  # about 3 s alone; the processes that share the processor's caches slow it
