from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mdp_core.data.instances import Instances
from mdp_core.errors import DataError

bitmaps = st.tuples(st.integers(0, 4), st.integers(1, 13), st.integers(1, 13)).flatmap(
    lambda shape: hnp.arrays(np.bool_, shape)
)


def literal_box(mask: np.ndarray) -> list[int]:
    """The tight box with exclusive ends, pixel by pixel."""
    inside = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    if not inside:
        return [0, 0, 0, 0]
    xs, ys = zip(*inside, strict=True)
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


def run_lengths(mask: np.ndarray) -> list[int]:
    """Uncompressed COCO run lengths, written out: columns from the left, zeros first."""
    counts, current = [0], False
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if bool(mask[y, x]) != current:
                counts.append(0)
                current = not current
            counts[-1] += 1
    return counts


def reference_masks(annotations: list[dict], height: int, width: int) -> np.ndarray:
    """Masks as the COCO API makes them."""
    coco = COCO()
    coco.dataset = {"images": [{"id": 1, "height": height, "width": width}], "annotations": annotations, "categories": []}
    coco.createIndex()
    return np.array([coco.annToMask(annotation) for annotation in annotations], dtype=bool).reshape(-1, height, width)


@given(bitmaps)
def test_masks_round_trip(masks: np.ndarray) -> None:
    instances = Instances.from_masks(masks)
    assert (len(instances), instances.size) == (masks.shape[0], masks.shape[1:])
    np.testing.assert_array_equal(instances.to_masks(), masks)
    assert instances.to_masks().dtype == np.bool_
    for index, mask in enumerate(masks):
        np.testing.assert_array_equal(instances.mask(index), mask)
    assert instances.areas().tolist() == [int(mask.sum()) for mask in masks]
    assert instances.scores.tolist() == [1.0] * len(masks)
    assert instances.labels.tolist() == [-1] * len(masks)


@given(bitmaps)
def test_boxes_are_tight_and_exclusive(masks: np.ndarray) -> None:
    instances = Instances.from_masks(masks)
    assert instances.boxes.dtype == np.float32
    assert instances.boxes.tolist() == [literal_box(mask) for mask in masks]


@settings(max_examples=60)
@given(bitmaps, st.randoms(use_true_random=False))
def test_coco_round_trip(masks: np.ndarray, random) -> None:
    n = len(masks)
    before = Instances.from_masks(
        masks, scores=[random.random() for _ in range(n)], labels=[random.randrange(-1, 80) for _ in range(n)]
    )
    annotations = json.loads(json.dumps(before.to_coco(5, first_id=10, first_category=3)))
    after = Instances.from_coco(annotations, *before.size, first_category=3)
    assert [annotation["id"] for annotation in annotations] == list(range(10, 10 + n))
    assert [annotation["area"] for annotation in annotations] == masks.sum(axis=(1, 2)).tolist()
    assert all(annotation["image_id"] == 5 and annotation["iscrowd"] == 0 for annotation in annotations)
    assert after.masks == before.masks
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        assert getattr(after, name).dtype == getattr(before, name).dtype


@settings(max_examples=60)
@given(bitmaps)
def test_to_coco_is_what_the_coco_api_reads(masks: np.ndarray) -> None:
    annotations = Instances.from_masks(masks, labels=np.zeros(len(masks))).to_coco(1)
    np.testing.assert_array_equal(reference_masks(annotations, *masks.shape[1:]), masks)
    for annotation, mask in zip(annotations, masks, strict=True):
        x0, y0, x1, y1 = literal_box(mask)
        assert annotation["bbox"] == [x0, y0, x1 - x0, y1 - y0]


@settings(max_examples=60)
@given(bitmaps)
def test_from_uncompressed_run_lengths(masks: np.ndarray) -> None:
    size = list(masks.shape[1:])
    annotations = [
        {"segmentation": {"size": size, "counts": run_lengths(mask)}, "bbox": [0, 0, 2, 3], "category_id": 1} for mask in masks
    ]
    instances = Instances.from_coco(annotations, *size)
    np.testing.assert_array_equal(instances.to_masks(), masks)
    assert instances.boxes.tolist() == [[0, 0, 2, 3]] * len(masks)
    assert instances.labels.tolist() == [0] * len(masks)


points = st.floats(-3, 25, allow_nan=False).map(lambda value: round(value, 2))
polygon = st.lists(points, min_size=6, max_size=14).map(lambda values: values[: len(values) // 2 * 2])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(polygon, min_size=1, max_size=3), max_size=3))
def test_from_polygons_as_the_coco_api_draws_them(polygons: list[list[list[float]]]) -> None:
    annotations = [
        {"id": i + 1, "image_id": 1, "category_id": 4, "segmentation": parts, "bbox": [1, 2, 3, 4]}
        for i, parts in enumerate(polygons)
    ]
    instances = Instances.from_coco(annotations, 20, 23)
    np.testing.assert_array_equal(instances.to_masks(), reference_masks(annotations, 20, 23))
    assert instances.boxes.tolist() == [[1, 2, 4, 6]] * len(polygons)
    assert instances.labels.tolist() == [3] * len(polygons)


def test_polygon_without_three_points_covers_nothing() -> None:
    square = [2, 2, 6, 2, 6, 6, 2, 6]
    cases = [[], [[]], [[1, 1, 5, 5]], [[1, 1, 5, 5], square], [square, [1, 1, 5, 5]]]
    annotations = [{"segmentation": case, "category_id": 1} for case in cases]
    instances = Instances.from_coco(annotations, 10, 10)
    assert instances.areas().tolist() == [0, 0, 0, 16, 16]
    assert instances.boxes.tolist() == [[0, 0, 0, 0]] * 3 + [[2, 2, 6, 6]] * 2, "without bbox, the tight box"


def test_annotation_of_another_size_is_refused() -> None:
    mask = coco_mask.encode(np.ones((10, 12), np.uint8, order="F"))
    annotation = {"id": 8, "image_id": 3, "segmentation": mask, "category_id": 1, "bbox": [0, 0, 12, 10]}
    assert Instances.from_coco([annotation], 10, 12).areas().tolist() == [120]
    with pytest.raises(DataError, match=r"annotation 8 of image 3: .*\[10, 12\].*\[12, 10\]"):
        Instances.from_coco([annotation], 12, 10)


@pytest.mark.parametrize("extra", [{}, {"segmentation": None}, {"segmentation": {"size": [5, 5]}}])
def test_annotation_without_a_mask_is_refused(extra: dict) -> None:
    with pytest.raises(DataError, match="annotation 8 of image 3: no polygons and no run lengths"):
        Instances.from_coco([{"id": 8, "image_id": 3, "category_id": 1, "bbox": [0, 0, 1, 1], **extra}], 5, 5)


def test_empty() -> None:
    empty = Instances.empty(4, 6)
    assert (len(empty), empty.size, empty.to_masks().shape, empty.areas().shape) == (0, (4, 6), (0, 4, 6), (0,))
    assert empty.boxes.shape == (0, 4)
    assert empty.to_coco("a") == []
    assert len(Instances.from_coco([], 4, 6)) == 0
    assert len(empty.select([])) == 0


@given(bitmaps.filter(len), st.data())
def test_select_by_index_and_by_mask(masks: np.ndarray, data) -> None:
    n = len(masks)
    instances = Instances.from_masks(masks, scores=np.arange(n) / n, labels=np.arange(n))
    index = data.draw(st.lists(st.integers(0, n - 1), max_size=6))
    chosen = instances.select(index)
    np.testing.assert_array_equal(chosen.to_masks(), masks[index].reshape(-1, *masks.shape[1:]))
    assert chosen.labels.tolist() == index
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    kept = instances.select(keep)
    np.testing.assert_array_equal(kept.to_masks(), masks[keep])
    np.testing.assert_array_equal(kept.boxes, instances.boxes[keep])
    assert kept.scores.tolist() == instances.scores[keep].tolist()


def test_with_labels_keeps_everything_else() -> None:
    before = Instances.from_masks(np.ones((2, 3, 3), bool), scores=[0.5, 0.25])
    after = before.with_labels([4, 0])
    assert after.labels.tolist() == [4, 0]
    assert after.labels.dtype == np.int32
    assert (after.masks, after.scores.tolist()) == (before.masks, [0.5, 0.25])
    assert before.labels.tolist() == [-1, -1]


def test_given_boxes_are_kept() -> None:
    boxes = [[0.5, 0.25, 2.5, 3.0]]
    assert Instances.from_masks(np.ones((1, 3, 3), bool), boxes=np.array(boxes)).boxes.tolist() == boxes


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 masks"):
        Instances.from_masks(np.ones((2, 3, 3), bool), scores=[1.0])


def test_a_thousand_masks_have_areas() -> None:
    """pycocotools counts the masks that it measures in 8 bits."""
    masks = np.zeros((1000, 4, 6), bool)
    masks.reshape(1000, -1)[np.arange(1000), np.arange(1000) % 24] = True
    masks[256] = True
    assert Instances.from_masks(masks).areas().tolist() == [24 if n == 256 else 1 for n in range(1000)]
