"""Boxes and GrabCut."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp_core.api import Instances
from mdp_refine.pixels import boxed, corners, fill, foreground, grabcut

coordinate = st.floats(-5, 15, width=32)


@given(coordinate, coordinate, coordinate, coordinate)
def test_a_box_holds_the_pixels_whose_centres_it_holds(x0, y0, x1, y1):
    found = fill(corners(np.array([x0, y0, x1, y1], np.float32), (7, 9)), (7, 9))
    expected = [[x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1 for x in range(9)] for y in range(7)]
    assert found.tolist() == expected


def test_boxes_that_are_no_numbers_are_empty_or_cut():
    assert not fill(corners(np.array([np.nan, 0, np.nan, 3], np.float32), (4, 4)), (4, 4)).any()
    assert fill(corners(np.array([-np.inf, 0, np.inf, 1], np.float32), (4, 4)), (4, 4)).sum() == 4


def test_boxed_keeps_all_but_the_masks():
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 1, 1] = masks[1, 2, 3] = True
    boxes = np.array([[0, 0, 4, 3], [2, 1, 8, 6]], np.float32)
    given_ = Instances.from_masks(masks, scores=[0.5, 0.7], labels=[1, 2], boxes=boxes)
    found = boxed(given_)
    assert found.areas().tolist() == [12, 30]
    assert found.scores.tolist() == given_.scores.tolist()
    assert found.labels.tolist() == [1, 2]
    assert found.boxes.tolist() == boxes.tolist()
    assert len(boxed(Instances.empty(3, 3))) == 0


def scene():
    """A dark disc with noise on a light ground."""
    y, x = np.mgrid[:60, :80]
    disc = (y - 30) ** 2 + (x - 40) ** 2 < 15**2
    noise = np.random.default_rng(0).integers(-10, 11, (60, 80, 3))
    return (np.where(disc[..., None], (60, 80, 40), (200, 180, 220)) + noise).astype(np.uint8), disc


def test_grabcut_finds_the_object_in_its_box():
    pixels, disc = scene()
    instances = Instances.from_masks(disc[None], boxes=np.array([[20, 10, 60, 50]], np.float32), labels=[3])
    found = grabcut(instances, pixels)
    shared, either = (found.mask(0) & disc).sum(), (found.mask(0) | disc).sum()
    assert shared / either > 0.95
    assert found.labels.tolist() == [3]


def test_grabcut_is_opencvs_with_five_iterations_and_depends_on_nothing_before():
    pixels, _ = scene()
    noise = np.random.default_rng(1).integers(-50, 51, pixels.shape)
    pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    labels, models = np.zeros((60, 80), np.uint8), (np.zeros((1, 65)), np.zeros((1, 65)))
    cv2.setRNGSeed(0)
    cv2.grabCut(pixels, labels, (20, 10, 40, 40), *models, 5, cv2.GC_INIT_WITH_RECT)
    expected = np.isin(labels, [1, 3])
    cv2.setRNGSeed(99)
    cv2.randu(np.zeros(7), 0, 1)
    assert (foreground(pixels, (20, 10, 60, 50)) == expected).all()
    assert not expected[:10].any()
    assert expected.any()


@pytest.mark.parametrize(
    ("box", "area"),
    [((5, 5, 5, 9), 0), ((0, 0, 80, 60), 4800)],
    ids=["empty", "whole image"],
)
def test_boxes_without_inside_or_outside(box, area):
    assert foreground(scene()[0], box).sum() == area


@pytest.mark.parametrize("box", [(5, 5, 6, 6), (79, 59, 80, 60), (0, 0, 80, 59), (0, 0, 79, 60), (3, 2, 4, 50)])
@pytest.mark.parametrize("flat", [False, True])
def test_small_and_large_boxes_and_flat_images_do_not_fail(box, flat):
    pixels = np.full((60, 80, 3), 7, np.uint8) if flat else scene()[0]
    found = foreground(pixels, box)
    assert not (found & ~fill(box, (60, 80))).any()


def test_a_single_pixel_image():
    assert foreground(np.zeros((1, 1, 3), np.uint8), (0, 0, 1, 1)).tolist() == [[True]]
    assert foreground(np.zeros((1, 2, 3), np.uint8), (0, 0, 1, 1)).shape == (1, 2)
