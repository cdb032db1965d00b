import os
from pathlib import Path

import numpy as np
import pytest

from mdp_core.data.images import read_image
from mdp_core.data.instances import Instances
from mdp_core.data.label_map import LabelMap, palette
from mdp_core.report.overlay import TINT, label_colour, overlay, scale, scale_mask


def disc(size=120, radius=30, centre=60):
    y, x = np.mgrid[:size, :size]
    return (y - centre) ** 2 + (x - centre) ** 2 < radius**2


def grey(level, size=120):
    return np.full((size, size, 3), level, np.uint8)


def test_the_inside_has_the_tint_and_the_far_outside_is_untouched():
    picture = overlay(grey(100), LabelMap((disc() * 3).astype(np.uint8)))
    assert picture[60, 60].tolist() == mixed(100, 3).tolist()
    assert (picture[~disc(radius=36)] == 100).all()
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("level", [0, 60, 128, 200, 255])
@pytest.mark.parametrize("label", [1, 8, 15, 21])
def test_an_outline_is_seen_on_dark_and_bright_images(level, label):
    picture = overlay(grey(level), LabelMap((disc() * label).astype(np.uint8))).astype(int)
    ring = picture[disc(radius=34) & ~disc(radius=26)]
    contrast = np.abs(ring - level).max(axis=1)
    assert contrast.max() > 100


def test_the_image_is_not_written_to():
    image, labels = grey(90), LabelMap(disc().astype(np.uint8))
    overlay(image, labels)
    overlay(image, Instances.from_masks(disc()[None]))
    assert (image == 90).all()
    assert labels.values.tolist() == disc().astype(int).tolist()


def test_ignored_pixels_turn_pale_without_an_outline():
    values = np.where(disc(), 255, 0).astype(np.uint8)
    picture = overlay(grey(0), LabelMap(values))
    assert (picture[disc()] == picture[60, 60]).all()
    assert picture[60, 60].min() > 128
    assert (picture[~disc()] == 0).all()


def mixed(level, label):
    return np.rint((1 - TINT) * np.array(level) + TINT * np.array(label_colour(label)))


def test_the_most_confident_instance_is_on_top():
    masks = np.stack([disc(), disc()])
    for scores, top, below in (([0.9, 0.2], 5, 7), ([0.2, 0.9], 7, 5), ([0.5, 0.5], 5, 7)):
        instances = Instances.from_masks(masks, scores=scores, labels=[4, 6])
        assert overlay(grey(100), instances)[60, 60].tolist() == mixed(mixed(100, below), top).tolist()
        assert LabelMap.paint(instances).values[60, 60] == top


def test_masks_without_a_cluster_are_told_apart():
    masks = np.stack([disc(centre=35, radius=20), disc(centre=85, radius=20)])
    picture = overlay(grey(100), Instances.from_masks(masks))
    tints = [mixed(100, value).tolist() for value in (1, 2)]
    assert [picture[35, 35].tolist(), picture[85, 85].tolist()] == tints


@pytest.mark.parametrize(
    ("width", "enlarge", "expected"),
    [(None, False, (90, 120)), (60, False, (45, 60)), (240, False, (90, 120)), (240, True, (180, 240))],
)
def test_sizes(width, enlarge, expected):
    labels = LabelMap(disc()[:90].astype(np.uint8))
    image = grey(100)[:90]
    assert overlay(image, labels, width=width, enlarge=enlarge).shape == (*expected, 3)
    assert scale(image, width, enlarge=enlarge).shape == (*expected, 3)


def test_a_scaled_mask_keeps_its_share_of_the_image():
    mask = disc()
    for size in (37, 60, 300):
        assert scale_mask(mask, size, size).mean() == pytest.approx(mask.mean(), abs=0.01)


def test_colours_follow_the_palette_and_stay_distinct():
    colours = [label_colour(value) for value in range(1, 41)]
    assert len(set(colours)) == 40
    for value, colour in enumerate(colours, start=1):
        assert (np.array(colour) >= palette()[value]).all()
        assert ((np.array(colour) > 0) == (palette()[value] > 0)).all()
    assert label_colour(255) == label_colour(1)


def test_many_labels_and_edge_cases_draw():
    labels = LabelMap(np.arange(900, dtype=np.uint16).reshape(30, 30))
    assert overlay(grey(10, 30), labels, width=20).shape == (20, 20, 3)
    assert overlay(np.zeros((1, 1, 3), np.uint8), LabelMap(np.ones((1, 1), np.uint8))).shape == (1, 1, 3)
    assert (overlay(grey(10), Instances.empty(120, 120)) == 10).all()
    assert (overlay(grey(10), Instances.from_masks(np.zeros((1, 120, 120), bool))) == 10).all()


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="do not belong together"):
        overlay(grey(0), LabelMap.background(120, 119))


@pytest.mark.skipif("VOC_ROOT" not in os.environ, reason="VOC_ROOT is not set")
def test_photographs_with_their_truth():
    root = Path(os.environ["VOC_ROOT"]) / "VOC2012"
    paths = sorted((root / "SegmentationClass").glob("*.png"))[:3]
    if not paths:
        pytest.skip(f"{root} holds no label maps")
    for path in paths:
        image, labels = read_image(root / "JPEGImages" / f"{path.stem}.jpg"), LabelMap.from_png(path)
        picture = overlay(image, labels).astype(int)
        changed = np.abs(picture - image).max(axis=2) > 0
        assert changed[labels.values > 0].mean() > 0.9
        assert changed[labels.values == 0].mean() < 0.1
