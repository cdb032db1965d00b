import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp_core.data.instances import Instances
from mdp_core.data.label_map import LabelMap
from mdp_core.errors import DataError
from mdp_core.evaluation.confusion import Confusion


def literal_counts(pairs, clusters, classes):
    """One pixel at a time."""
    counts = [[0] * classes for _ in range(clusters + 1)]
    unpredicted = [0] * classes
    for prediction, truth in pairs:
        for y in range(truth.size[0]):
            for x in range(truth.size[1]):
                true, label = int(truth.values[y, x]), int(prediction.values[y, x])
                if true == truth.ignore:
                    continue
                if label == prediction.ignore:
                    unpredicted[true] += 1
                else:
                    counts[label][true] += 1
    return counts, unpredicted


def random_pairs(rng, images, clusters, classes, dtype=np.uint8):
    ignore = np.iinfo(dtype).max
    pairs = []
    for _ in range(images):
        shape = tuple(rng.integers(1, 12, 2))
        label = rng.integers(0, clusters + 1, shape).astype(dtype)
        true = rng.integers(0, classes, shape).astype(np.uint8)
        label[rng.random(shape) < 0.1] = ignore
        true[rng.random(shape) < 0.2] = 255
        pairs.append((LabelMap(label), LabelMap(true)))
    return pairs


@pytest.mark.parametrize(
    ("clusters", "classes", "dtype"),
    [(3, 5, np.uint8), (6, 2, np.uint8), (0, 4, np.uint8), (254, 255, np.uint8), (300, 7, np.uint16)],
)
def test_counts_are_those_of_counting_pixel_by_pixel(clusters, classes, dtype):
    pairs = random_pairs(np.random.default_rng(clusters), 9, clusters, classes, dtype)
    confusion = Confusion(clusters, classes)
    for index, (prediction, truth) in enumerate(pairs):
        confusion.add(str(index), prediction, truth)
    counts, unpredicted = literal_counts(pairs, clusters, classes)
    assert confusion.counts.dtype == np.int64
    assert confusion.counts.tolist() == counts
    assert confusion.unpredicted.tolist() == unpredicted
    assert confusion.unpredicted.sum() > 0
    assert (confusion.images, confusion.clusters, confusion.classes) == (9, clusters, classes)
    assert confusion.class_pixels.sum() == sum(int((truth.values != 255).sum()) for _, truth in pairs)


@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_merging_parts_is_counting_all(seed, cut):
    pairs = random_pairs(np.random.default_rng(seed), 5, 3, 4)
    whole, first, second = Confusion(3, 4), Confusion(3, 4), Confusion(3, 4)
    for index, (prediction, truth) in enumerate(pairs):
        whole.add("", prediction, truth)
        (first if index < cut else second).add("", prediction, truth)
    first.merge(second)
    assert first.counts.tolist() == whole.counts.tolist()
    assert first.unpredicted.tolist() == whole.unpredicted.tolist()
    assert first.images == whole.images


@given(st.integers(0, 2**32 - 1))
def test_maps_of_8_and_of_16_bits_count_alike(seed):
    pairs = random_pairs(np.random.default_rng(seed), 3, 3, 4)
    narrow, wide = Confusion(3, 4), Confusion(3, 4)
    for prediction, truth in pairs:
        narrow.add("", prediction, truth)
        values = np.where(prediction.values == 255, 65535, prediction.values.astype(np.uint16)).astype(np.uint16)
        wide.add("", LabelMap(values), truth)
    assert wide.counts.tolist() == narrow.counts.tolist()
    assert wide.unpredicted.tolist() == narrow.unpredicted.tolist()


def test_long_runs_across_rows_and_maps_without_a_pixel():
    confusion = Confusion(1, 2)
    confusion.add("a", LabelMap(np.ones((40, 50), np.uint8)), LabelMap(np.ones((40, 50), np.uint8)))
    confusion.add("b", LabelMap(np.zeros((0, 5), np.uint8)), LabelMap(np.zeros((0, 5), np.uint8)))
    confusion.add("c", LabelMap(np.ones((1, 1), np.uint8)), LabelMap(np.zeros((1, 1), np.uint8)))
    assert confusion.counts.tolist() == [[0, 0], [1, 2000]]


def test_more_clusters_than_a_map_of_8_bits_could_hold():
    confusion = Confusion(300, 2)
    confusion.add("a", LabelMap(np.array([[0, 254, 255]], np.uint8)), LabelMap(np.array([[0, 1, 1]], np.uint8)))
    assert (confusion.counts[0, 0], confusion.counts[254, 1], confusion.counts.sum()) == (1, 1, 2)
    assert confusion.unpredicted.tolist() == [0, 1]


def test_an_image_without_ground_truth_is_left_out_and_counted():
    confusion, other = Confusion(2, 2), Confusion(2, 2)
    confusion.add("a", LabelMap.background(3, 3), None)
    other.merge(confusion)
    assert (other.images, other.without_truth, int(other.counts.sum())) == (0, 1, 0)


def test_all_ignored_truth_counts_an_image_and_no_pixel():
    confusion = Confusion(2, 2)
    confusion.add("a", LabelMap(np.ones((3, 3), np.uint8)), LabelMap(np.full((3, 3), 255, np.uint8)))
    assert confusion.images == 1
    assert confusion.counts.sum() + confusion.unpredicted.sum() == 0


def test_sizes_must_agree():
    with pytest.raises(DataError, match=r"holiday/1\.jpg: the prediction is 4×3 px, the ground truth 3×4 px"):
        Confusion(1, 2).add("holiday/1.jpg", LabelMap.background(3, 4), LabelMap.background(4, 3))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("label", "true", "message"), [(3, 0, "label 3, but there are 2 clusters"), (0, 4, r"class 4, .* classes 0\.\.3")]
)
def test_values_out_of_range_are_errors_and_count_nothing(label, true, message, dtype):
    confusion = Confusion(2, 4)
    with pytest.raises(DataError, match=f"img: .*{message}"):
        confusion.add("img", LabelMap(np.full((2, 2), label, dtype)), LabelMap(np.full((2, 2), true, np.uint8)))
    assert confusion.images == 0
    assert confusion.counts.sum() == 0


def test_a_label_out_of_range_is_an_error_where_the_truth_is_ignored_too():
    with pytest.raises(DataError, match="img: the prediction holds label 3"):
        Confusion(2, 4).add("img", LabelMap(np.array([[0, 3]], np.uint8)), LabelMap(np.array([[0, 255]], np.uint8)))


def test_images_without_masks_and_empty_masks_are_background():
    confusion, truth = Confusion(2, 2), LabelMap(np.array([[0, 1, 1]], np.uint8))
    for instances in (Instances.empty(1, 3), Instances.from_masks(np.zeros((2, 1, 3), bool), labels=[0, 1])):
        confusion.add("a", LabelMap.paint(instances), truth)
    assert confusion.counts.tolist() == [[2, 4], [0, 0], [0, 0]]


def test_parts_of_other_shapes_do_not_merge():
    with pytest.raises(ValueError, match="not of one split"):
        Confusion(2, 4).merge(Confusion(3, 4))
