import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mdp_core.api import ImageRecord, Images, Instances
from mdp_mmdet import mmdet_parts  # noqa: F401
from mdp_mmdet.samples import TrainingSamples, prediction_sample, resized_size, usable
from mdp_mmdet.settings import FitSettings


@given(h=st.integers(1, 3000), w=st.integers(1, 3000), side=st.integers(32, 900), more=st.integers(0, 900))
def test_resized_size(h: int, w: int, side: int, more: int) -> None:
    height, width = resized_size(h, w, side, side + more)
    assert min(height, width) >= 1
    assert max(height, width) <= side + more
    assert min(height, width) == side or max(height, width) == side + more


def example(flip: float, sides: tuple[int, ...] = (60,)) -> tuple[TrainingSamples, np.ndarray, Instances]:
    pixels = np.zeros((40, 30, 3), np.uint8)
    masks = np.zeros((2, 40, 30), bool)
    masks[0, 10:20, 3:9] = True
    masks[1, 30:40, 20:30] = True
    pixels[masks[0]] = (255, 0, 0)
    pixels[masks[1]] = (0, 0, 255)
    instances = Instances.from_masks(masks, labels=[2, 0])
    images = Images([ImageRecord("a", 40, 30)], lambda _: pixels)
    return TrainingSamples(images, [instances], [0], FitSettings(train_sides=sides, flip=flip)), pixels, instances


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_boxes_masks_and_pixels_move_together(flip: float) -> None:
    samples, _, _ = example(flip)
    data = samples.load(0)
    truth = data["data_samples"].gt_instances
    assert data["inputs"].shape == (3, 80, 60)
    assert data["inputs"].dtype == torch.uint8
    assert truth.labels.tolist() == [2, 0]
    for box, mask in zip(truth.bboxes.tolist(), truth.masks.masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert box == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    red = data["inputs"][0].numpy() > 127
    blue = data["inputs"][2].numpy() > 127
    assert (red == truth.masks.masks[0].astype(bool)).mean() > 0.99
    assert (blue == truth.masks.masks[1].astype(bool)).mean() > 0.99
    assert (truth.bboxes[0, 0] > 30) == bool(flip)


def test_sides_and_flips_vary_and_repeat_with_the_seed() -> None:
    samples, _, _ = example(0.5, (60, 90))

    def shown(seed: int) -> tuple[tuple[int, ...], bool]:
        random.seed(seed)
        data = samples.load(0)
        return tuple(data["inputs"].shape), bool(data["data_samples"].gt_instances.bboxes[0, 0] > data["inputs"].shape[2] / 2)

    assert len({shown(seed) for seed in range(30)}) == 4
    assert shown(3) == shown(3)


def test_what_vanishes_is_left_out() -> None:
    masks = np.zeros((4, 50, 50), bool)
    masks[0, 5:9, 5:9] = True
    masks[2, 5:9, 5:9] = True
    masks[3, 1:5, 1:5] = True
    boxes = np.array([[5, 5, 9, 9], [0, 0, 9, 9], [5, 5, 5.5, 9], [1, 1, 5, 5]])
    kept = usable(Instances.from_masks(masks, boxes=boxes, labels=[0, 0, 0, -1]))
    assert len(kept) == 1
    assert kept.boxes.tolist() == [[5, 5, 9, 9]]


def test_small_instance_can_vanish_at_the_drawn_size() -> None:
    masks = np.zeros((1, 400, 400), bool)
    masks[0, 7:10, 7:10] = True
    images = Images([ImageRecord("a", 400, 400)], lambda _: np.zeros((400, 400, 3), np.uint8))
    samples = TrainingSamples(images, [Instances.from_masks(masks, labels=[0])], [0], FitSettings(train_sides=(32,)))
    truth = samples.load(0)["data_samples"].gt_instances
    assert truth.bboxes.shape == (0, 4)
    assert truth.masks.masks.shape == (0, 32, 32)


def test_prediction_sample_tells_both_sizes() -> None:
    data = prediction_sample(np.zeros((100, 300, 3), np.uint8), 64, 128)
    meta = data["data_samples"].metainfo
    assert meta["ori_shape"] == (100, 300)
    assert meta["img_shape"] == (43, 128)
    assert meta["scale_factor"] == (128 / 300, 43 / 100)
