import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp_mmengine.augmentation import Augmentation, augment, hflip, resize_image, resize_labels, rotate_scale


def _blocks(height, width, dtype=np.uint8, cell=8):
    """An image whose colours tell the label: red = 60 · label."""
    labels = (np.add.outer(np.arange(height) // cell, np.arange(width) // cell) % 4).astype(dtype)
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = labels * 60
    return image, labels


def _still(size):
    return Augmentation(size=size, scale=(1.0, 1.0), rotate=(0.0, 0.0), flip=0.0)


def test_identity():
    image, labels = _blocks(32, 32)
    image[..., 1] = np.random.default_rng(0).integers(0, 256, (32, 32))
    out_image, out_labels = augment(image, labels, _still(32), 0, np.random.default_rng(0))
    np.testing.assert_array_equal(out_image, image)
    np.testing.assert_array_equal(out_labels, labels)


def test_flip_by_hand():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    labels = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    np.testing.assert_array_equal(hflip(labels), [[3, 2, 1], [6, 5, 4]])
    np.testing.assert_array_equal(hflip(image)[0, 0], image[0, 2])
    square = np.arange(16, dtype=np.uint8).reshape(4, 4)
    always = Augmentation(size=4, scale=(1.0, 1.0), rotate=(0.0, 0.0), flip=1.0)
    colour = np.repeat(square[..., None], 3, axis=2)
    out_image, out_labels = augment(colour, square, always, 0, np.random.default_rng(0))
    np.testing.assert_array_equal(out_labels, square[:, ::-1])
    np.testing.assert_array_equal(out_image, colour[:, ::-1])


def test_flips_half_of_the_time():
    image, labels = _blocks(32, 48)
    rng = np.random.default_rng(0)
    half = Augmentation(size=32, scale=(1.0, 1.0), rotate=(0.0, 0.0), flip=0.5)
    straight = augment(image, labels, _still(32), 0, rng)[1]
    flips = sum(not np.array_equal(augment(image, labels, half, 0, rng)[1], straight) for _ in range(400))
    assert 160 < flips < 240


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_quarter_turns_are_exact_and_counter_clockwise(dtype):
    image, labels = _blocks(24, 24, dtype)
    labels = labels + np.arange(24, dtype=dtype)  # not symmetric
    out_image, out_labels = rotate_scale(image, labels, 90.0, 1.0, 0)
    np.testing.assert_array_equal(out_labels, np.rot90(labels))
    np.testing.assert_array_equal(out_image, np.rot90(image))


@pytest.mark.parametrize(("dtype", "border"), [(np.uint8, 0), (np.uint8, 255), (np.uint16, 65535)])
def test_scaling_down_brings_in_a_black_border_with_the_label_asked_for(dtype, border):
    image = np.full((40, 40, 3), 200, np.uint8)
    labels = np.full((40, 40), 3, dtype)
    out_image, out_labels = rotate_scale(image, labels, 0.0, 0.5, border)
    assert out_labels.dtype == dtype
    np.testing.assert_array_equal(out_labels[11:29, 11:29], 3)
    outside = np.ones((40, 40), bool)
    outside[9:31, 9:31] = False
    assert (out_labels[outside] == border).all()
    assert (out_image[outside] == 0).all()
    assert (out_image[12:28, 12:28] == 200).all()


def test_scaling_up_enlarges_what_is_in_the_centre():
    labels = np.zeros((41, 41), np.uint8)
    labels[18:23, 18:23] = 1  # 5 × 5 in the centre
    _, out = rotate_scale(np.zeros((41, 41, 3), np.uint8), labels, 0.0, 2.0, 0)
    rows, columns = np.nonzero(out)
    assert abs(rows.min() + rows.max() - 40) <= 1  # still centred; half coordinates go either way
    assert abs(columns.min() + columns.max() - 40) <= 1
    assert rows.max() - rows.min() + 1 in (9, 10)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_image_and_labels_stay_together(dtype):
    image, labels = _blocks(96, 128, dtype, cell=24)
    rng = np.random.default_rng(1)
    agreement = []
    for _ in range(20):
        out_image, out_labels = augment(image, labels, Augmentation(size=80), 0, rng)
        assert out_image.shape == (80, 80, 3)
        assert (out_labels.shape, out_labels.dtype) == ((80, 80), dtype)
        agreement.append(np.abs(out_image[..., 0].astype(int) - 60 * out_labels.astype(int)) < 15)
    assert np.mean(agreement) > 0.85  # all but the edges, where colours mix


def test_resizing_to_half_and_double_by_hand():
    labels = np.array([[1, 1, 2, 2], [1, 1, 2, 2]], np.uint16)
    np.testing.assert_array_equal(resize_labels(labels, 1, 2), [[1, 2]])
    np.testing.assert_array_equal(resize_labels(np.array([[1, 2]], np.uint8), 2, 4), [[1, 1, 2, 2], [1, 1, 2, 2]])
    grey = np.full((10, 20, 3), 77, np.uint8)
    assert (resize_image(grey, 33, 7) == np.full((33, 7, 3), 77)).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 50), width=st.integers(1, 50), border=st.sampled_from([0, 255]))
def test_same_generator_same_result_and_no_invented_labels(seed, height, width, border):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels = rng.choice(np.array([0, 3, 9], np.uint8), (height, width))
    first = augment(image, labels, Augmentation(size=40), border, np.random.default_rng(seed))
    second = augment(image, labels, Augmentation(size=40), border, np.random.default_rng(seed))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert set(np.unique(first[1])) <= {*np.unique(labels), border}
