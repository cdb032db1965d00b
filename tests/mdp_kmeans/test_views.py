"""Views on hand-made images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp_kmeans.settings import EmbedConfig
from mdp_kmeans.views import box_of, sized, to_square, view_of, whole_pixels, widened

MEAN = [124, 116, 104]
COLOUR = np.array(MEAN, np.uint8)


def picture() -> tuple[np.ndarray, np.ndarray]:
    """A 40 × 60 gradient, and an L-shaped mask whose box is x 10..30, y 5..25."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[..., 0] = np.arange(60)
    pixels[..., 1] = np.arange(40)[:, None]
    pixels[..., 2] = 200
    mask = np.zeros((40, 60), bool)
    mask[5:25, 10:14] = True
    mask[21:25, 10:30] = True
    return pixels, mask


def test_masked_crop_is_the_box_with_the_mean_colour_outside_the_mask():
    pixels, mask = picture()
    view = view_of(pixels, mask, EmbedConfig(view="masked-crop", size=20), COLOUR)
    inside = mask[5:25, 10:30]
    assert (view[inside] == pixels[5:25, 10:30][inside]).all()
    assert (view[~inside] == MEAN).all()
    assert (~inside).any()


def test_crop_is_the_box_with_all_its_pixels():
    pixels, mask = picture()
    assert (view_of(pixels, mask, EmbedConfig(view="crop", size=20), COLOUR) == pixels[5:25, 10:30]).all()


def test_masked_image_is_the_whole_image_with_the_mean_colour_outside_the_mask():
    pixels, mask = picture()
    view = view_of(pixels, mask, EmbedConfig(view="masked-image", size=60), COLOUR)
    assert (view[10:50][mask] == pixels[mask]).all()
    assert (view[10:50][~mask] == MEAN).all()
    assert (view[:10] == MEAN).all()
    assert (view[50:] == MEAN).all()


def test_pad_keeps_proportions_and_squash_stretches():
    bar = np.zeros((4, 16, 3), np.uint8)
    padded = to_square(bar, 32, "pad", COLOUR)
    black = (padded == 0).all(axis=2)
    assert black.sum(axis=0).tolist() == [8] * 32
    assert np.flatnonzero(black[:, 0]).tolist() == list(range(12, 20))
    assert (padded[~black] == MEAN).all()
    assert not to_square(bar, 32, "squash", COLOUR).any()


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(["pad", "squash"]), st.sampled_from([16, 33]))
def test_every_view_is_square(height, width, shape, size):
    view = to_square(np.zeros((height, width, 3), np.uint8), size, shape, COLOUR)
    assert view.shape == (size, size, 3)
    assert view.dtype == np.uint8


@pytest.mark.parametrize(("margin", "wanted"), [(0.0, (10, 5, 30, 25)), (0.1, (8, 3, 32, 27)), (1.0, (0, 0, 50, 40))])
def test_boxes_and_margins(margin, wanted):
    mask = picture()[1]
    assert widened(box_of(mask), margin, *mask.shape) == wanted


def test_an_empty_mask_has_the_whole_image_as_its_box():
    pixels, mask = picture()
    assert widened(box_of(np.zeros_like(mask)), 0.5, *mask.shape) == (0, 0, 60, 40)
    assert (view_of(pixels, np.zeros_like(mask), EmbedConfig(size=16), COLOUR) == MEAN).all()


@pytest.mark.parametrize("view", ["crop", "masked-crop", "masked-image"])
def test_a_native_view_has_the_pixels_of_the_image(view):
    pixels, mask = picture()
    found = view_of(pixels, mask, EmbedConfig(view=view, size="native"), COLOUR)
    whole = np.where(mask[..., None], pixels, COLOUR)
    wanted = {"crop": pixels[5:25, 10:30], "masked-crop": whole[5:25, 10:30], "masked-image": whole}[view]
    assert found.shape == wanted.shape
    assert (found == wanted).all()


@given(st.integers(1, 90), st.integers(1, 90), st.integers(16, 100))
def test_native_views_shrink_to_the_largest_side_and_never_grow(height, width, largest):
    view = sized(np.zeros((height, width, 3), np.uint8), EmbedConfig(size="native", largest=largest), COLOUR)
    if max(height, width) <= largest:
        assert view.shape == (height, width, 3)
    else:
        scale = largest / max(height, width)
        assert max(view.shape[:2]) == largest
        assert abs(view.shape[0] - height * scale) <= max(0.5, 1 - height * scale)
        assert abs(view.shape[1] - width * scale) <= max(0.5, 1 - width * scale)


def test_the_stored_box_counts_only_where_it_shall():
    pixels, mask = picture()
    stored = np.array([7.4, 3.0, 33.0, 27.2], np.float32)
    tight = view_of(pixels, mask, EmbedConfig(view="crop", size="native"), COLOUR, stored)
    assert (tight == pixels[5:25, 10:30]).all()
    given = view_of(pixels, mask, EmbedConfig(view="crop", size="native", box="stored"), COLOUR, stored)
    assert given.shape == (25, 26, 3)
    assert (given == pixels[3:28, 7:33]).all()
    wider = view_of(pixels, mask, EmbedConfig(view="crop", size="native", box="stored", margin=0.1), COLOUR, stored)
    assert (wider == pixels[1:30, 4:36]).all()


@pytest.mark.parametrize(
    ("box", "wanted"),
    [
        ((10, 5, 30, 25), (10, 5, 30, 25)),  # tight boxes are whole numbers and stay what they are
        ((9.9, 5.1, 29.01, 24.9), (9, 5, 30, 25)),
        ((-3.5, -1, 70, 50), (0, 0, 60, 40)),
        ((10.2, 10.2, 10.4, 10.4), (10, 10, 11, 11)),
        ((0, 0, 0, 0), (0, 0, 60, 40)),  # the box of an empty mask
        ((80, 5, 90, 9), (0, 0, 60, 40)),
    ],
)
def test_boxes_are_rounded_outwards_within_the_image(box, wanted):
    assert whole_pixels(np.array(box, np.float32), 40, 60) == wanted
