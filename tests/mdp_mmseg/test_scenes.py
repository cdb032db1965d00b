import random

import numpy as np
import pytest

from mdp_core.api import ImageRecord, Images, LabelMap, StageError
from mdp_mmengine.augmentation import Augmentation
from mdp_mmengine.scenes import IGNORE_INDEX, Scenes
from mdp_mmseg.scenes import SegScenes

STILL = Augmentation(size=8, scale=(1.0, 1.0), rotate=(0.0, 0.0), flip=0.0)
SMALL = Augmentation(size=32, scale=(0.5, 0.5), rotate=(0.0, 0.0), flip=0.0)


def _images(*pixels):
    records = [ImageRecord(f"image{i}", *p.shape[:2]) for i, p in enumerate(pixels)]
    return Images(records, lambda record: pixels[int(record.id.removeprefix("image"))])


def _scenes(labels, clusters=3, augmentation=STILL, border="background"):
    pixels = np.random.default_rng(0).integers(0, 256, (*labels.shape, 3), dtype=np.uint8)
    return SegScenes(Scenes(_images(pixels), [LabelMap(labels)], clusters, augmentation, border)), pixels


def test_sample_holds_rgb_and_labels():
    labels = np.random.default_rng(1).integers(0, 4, (8, 8)).astype(np.uint8)
    labels[0, 0] = 255
    scenes, pixels = _scenes(labels)
    sample = scenes(0)
    np.testing.assert_array_equal(sample["inputs"].numpy(), pixels.transpose(2, 0, 1))
    expected = labels.astype(int)
    expected[0, 0] = IGNORE_INDEX
    np.testing.assert_array_equal(sample["data_samples"].gt_sem_seg.data.numpy()[0], expected)


def test_sixteen_bit_labels_have_their_own_ignore_value():
    labels = np.array([[255, 300], [65535, 0]], np.uint16).repeat(4, 0).repeat(4, 1)
    scenes, _ = _scenes(labels, clusters=300)
    values = scenes(0)["data_samples"].gt_sem_seg.data.numpy()[0]
    np.testing.assert_array_equal(values[::4, ::4], [[255, 300], [IGNORE_INDEX, 0]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("border", "expected"), [("background", 0), ("ignore", IGNORE_INDEX)])
def test_border_of_the_augmentation(dtype, border, expected):
    scenes, _ = _scenes(np.full((32, 32), 2, dtype), augmentation=SMALL, border=border)
    values = scenes(0)["data_samples"].gt_sem_seg.data.numpy()[0]
    assert (values[[0, 0, -1, -1], [0, -1, 0, -1]] == expected).all()
    assert (values[12:20, 12:20] == 2).all()


def test_chance_comes_from_pythons_random_state():
    scenes, _ = _scenes(np.eye(40, dtype=np.uint8), augmentation=Augmentation(size=32))

    def sample(seed):
        random.seed(seed)
        return scenes(0)["inputs"]

    assert sample(1).equal(sample(1))
    assert not sample(1).equal(sample(2))


def test_label_maps_without_any_object_are_refused_with_the_stage_to_look_at():
    empty = np.array([[0, 255], [0, 0]], np.uint8)
    with pytest.raises(StageError, match="refiner") as error:
        _scenes(empty)[0].check()
    assert "detector" in str(error.value)
    with pytest.raises(StageError, match="no training images"):
        SegScenes(Scenes(_images(), [], 3, STILL, "background")).check()
    with pytest.raises(StageError, match="1 images, but 0 label maps"):
        SegScenes(Scenes(_images(np.zeros((2, 2, 3), np.uint8)), [], 3, STILL, "background")).check()
    empty[1, 1] = 1
    _scenes(empty)[0].check()


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(StageError, match="image0: its label map holds label 4, but there are 3 clusters"):
        _scenes(np.full((8, 8), 4, np.uint8))[0](0)
    scenes = SegScenes(Scenes(_images(np.zeros((8, 9, 3), np.uint8)), [LabelMap.background(9, 8)], 3, STILL, "background"))
    with pytest.raises(StageError, match="8×9 px, the image 9×8"):
        scenes(0)
