"""What becomes of a mask that goes through polygons."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from scipy import ndimage
from skimage.measure import approximate_polygon, find_contours

from mdp_core.data.polygons import to_polygons
from mdp_dino.outlines import instances_of, outlined, through_polygons

ONE = np.ones(1, np.float32)


def ring() -> np.ndarray:
    mask = np.zeros((100, 100), bool)
    mask[20:80, 20:80] = True
    mask[40:60, 40:60] = False
    return mask


def blob(seed: int, size: tuple[int, int], share: float) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=size), 3, mode="wrap")
    return noise > np.quantile(noise, 1 - share)


def test_a_ring_loses_its_hole():
    """3200 pixels become 3501, as was measured of the authors' program."""
    mask = ring()
    assert mask.sum() == 3200
    assert outlined(mask, "exact") is mask
    assert outlined(mask, "filled").sum() == 3600
    assert len(to_polygons(mask)) == 2
    drawn = outlined(mask, "polygon")
    assert drawn.sum() == 3501
    assert drawn[40:60, 40:60].all()


@given(st.integers(0, 10_000), st.tuples(st.integers(12, 60), st.integers(12, 60)), st.floats(0.05, 0.95))
def test_polygons_equal_the_steps_in_turn(seed, size, share):
    mask = blob(seed, size, share)
    canvas = np.zeros((size[0] + 2, size[1] + 2))
    canvas[1:-1, 1:-1] = mask
    union = np.zeros(size, bool)
    for contour in find_contours(canvas, 0.5):
        assert (contour[0] == contour[-1]).all()  # the border of zeros closes all of them
        corners = approximate_polygon(contour - 1, 2)
        if len(corners) < 3:
            continue
        flat = [max(0.0, float(value)) for y, x in corners for value in (x, y)]
        union |= coco_mask.decode(coco_mask.frPyObjects([flat], *size)[0]).astype(bool)
    assert (through_polygons(mask) == union).all()


@given(st.integers(0, 10_000), st.floats(0.1, 0.9))
def test_the_outline_moves_by_no_more_than_the_tolerance_and_a_pixel(seed, share):
    mask = ndimage.binary_fill_holes(blob(seed, (50, 70), share))
    drawn = through_polygons(mask)
    reach = np.hypot(*np.mgrid[-4:5, -4:5]) <= 2 + 2**0.5
    assert not (drawn & ~ndimage.binary_dilation(mask, reach)).any()
    assert not (ndimage.binary_erosion(mask, reach) & ~drawn).any()


def test_the_whole_image_stays_almost_whole():
    drawn = through_polygons(np.ones((40, 60), bool))
    assert drawn[:-1, :-1].mean() > 0.99


@pytest.mark.parametrize("outline", ["exact", "filled", "polygon"])
def test_an_empty_mask_is_no_instance(outline):
    empty = np.zeros((9, 7), bool)
    assert not outlined(empty, outline).any()
    assert len(instances_of(empty[None], ONE, outline)) == 0


def test_what_is_too_small_for_a_polygon_is_no_instance():
    """The authors' program stops here with an error."""
    speck = np.zeros((9, 9), bool)
    speck[4, 4] = True
    assert len(instances_of(speck[None], ONE, "polygon")) == 0


def test_the_box_is_that_of_the_pixels_before():
    mask = ring()
    found = instances_of(mask[None], ONE, "polygon")
    assert found.boxes.tolist() == [[20, 20, 80, 80]]
    assert found.areas().tolist() == [3501]
    disc = np.hypot(*np.mgrid[-30:31, -30:31]) <= 20
    found = instances_of(disc[None], ONE, "polygon")
    rows = np.flatnonzero(found.mask(0).any(axis=1))
    assert found.boxes.tolist() == [[10, 10, 51, 51]]
    assert (rows[0], rows[-1] + 1) != (10, 51)


@pytest.mark.parametrize("outline", ["exact", "filled", "polygon"])
def test_scores_and_boxes_stay_with_their_masks_where_others_are_dropped(outline):
    masks = np.zeros((3, 50, 60), bool)
    masks[0, 30:45, 5:25] = masks[2, 5:20, 30:50] = True
    found = instances_of(masks, np.array([0.25, 0.5, 0.75], np.float32), outline)
    assert found.scores.tolist() == [0.25, 0.75]
    assert found.boxes.tolist() == [[5, 30, 25, 45], [30, 5, 50, 20]]
