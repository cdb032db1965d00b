import io

import numpy as np
import pytest
from PIL import Image

from mdp_core.data.instances import Instances
from mdp_core.report.contact_sheet import ClusterGroup, cluster_sheet, contact_sheet, mask_crop
from mdp_core.report.layout import BLANK, GAP, MARGIN, cell_height, drawable, fit_text, font, legend_lines, to_png
from mdp_core.report.overlay import label_colour


def flat(colour, height=60, width=80):
    return np.full((height, width, 3), colour, np.uint8)


def cells_of(sheet, colour):
    """Boxes (x0, y0, x1, y1) of the connected areas of one colour."""
    from scipy import ndimage

    labelled, _ = ndimage.label((sheet == np.array(colour)).all(axis=2))
    return sorted((int(x.start), int(y.start), int(x.stop), int(y.stop)) for y, x in ndimage.find_objects(labelled))


def test_cells_are_of_one_size_and_aligned():
    red, blue = (200, 0, 0), (0, 0, 200)
    rows = [("a", [flat(red), flat(blue, 30, 40)]), ("b/c.jpg", [flat(red, 600, 800), flat(blue)])]
    sheet = contact_sheet(["image", "masks"], rows, cell_width=100)
    reds, blues = cells_of(sheet, red), cells_of(sheet, blue)
    assert len(reds) == len(blues) == 2
    assert {(x1 - x0, y1 - y0) for x0, y0, x1, y1 in reds + blues} == {(100, 75)}
    assert {box[0] for box in reds} == {MARGIN}
    assert {box[0] for box in blues} == {MARGIN + 100 + GAP}
    assert [box[1] for box in reds] == [box[1] for box in blues]
    assert sheet.shape[1] == 2 * MARGIN + 200 + GAP
    assert (sheet[:, : MARGIN - 2] == 255).all()
    assert (sheet[:, 2 - MARGIN :] == 255).all()


def test_a_picture_of_another_shape_is_centred_and_whole():
    rows = [("a", [flat((0, 90, 0)), flat((0, 90, 0)), flat((9, 9, 200), 120, 60)])]
    (box,) = cells_of(contact_sheet(["1", "2", "3"], rows, cell_width=100), (9, 9, 200))
    x0, y0, x1, y1 = box
    assert (y1 - y0, x1 - x0) == (75, 38)
    left = MARGIN + 2 * (100 + GAP)
    assert abs((x0 - left) - (left + 100 - x1)) <= 1


def test_text_is_drawn_dark_on_white():
    rows = [("an-image-id", [flat((128, 128, 128))])]
    with_title = contact_sheet(["column"], rows, title="A title")
    without = contact_sheet(["column"], rows)
    assert with_title.shape[0] > without.shape[0]
    assert (with_title[: MARGIN + 30].min(axis=2) < 90).sum() > 50
    named, unnamed = contact_sheet(["column"], rows), contact_sheet([""], rows)
    assert not np.array_equal(named, unnamed)
    assert not np.array_equal(named, contact_sheet(["column"], [("another", rows[0][1])]))


def test_nothing_to_show_is_a_pale_cell():
    sheet = contact_sheet(["a", "b"], [("x", [flat((200, 0, 0)), None])], cell_width=100)
    assert any((x1 - x0, y1 - y0) == (100, 75) for x0, y0, x1, y1 in cells_of(sheet, BLANK))


def test_legend_shows_the_colours():
    sheet = contact_sheet(["a"], [("x", [flat((1, 2, 3))])], legend=[(1, "cat"), (2, "dog")])
    assert cells_of(sheet, label_colour(1))
    assert cells_of(sheet, label_colour(2))


def test_a_long_legend_breaks_into_lines_that_fit():
    lines = legend_lines([(i, f"class number {i}") for i in range(1, 30)], 300)
    assert sum(map(len, lines)) == 29
    assert len(lines) > 5
    assert all(x + 24 + font(14).getlength(text) <= 300 for line in lines for x, _, text in line)


def test_rows_must_fill_their_columns():
    with pytest.raises(ValueError, match="2 columns"):
        contact_sheet(["a", "b"], [("x", [flat(0)])])
    assert contact_sheet(["a"], []).shape[2] == 3


def test_cluster_sheet_shows_no_more_crops_than_asked():
    groups = [
        ClusterGroup(3, 41, [flat((200, 0, 0), 50, 50)] * 9),
        ClusterGroup(4, 0, []),
        ClusterGroup(5, 1, [flat((0, 0, 200))]),
    ]
    sheet = cluster_sheet(groups, crops=6, cell=64)
    reds = cells_of(sheet, (200, 0, 0))
    assert len(reds) == 6
    assert {(x1 - x0, y1 - y0) for x0, y0, x1, y1 in reds} == {(64, 64)}
    assert len(cells_of(sheet, (0, 0, 200))) == 1
    assert all(cells_of(sheet, label_colour(cluster)) for cluster in (3, 4, 5))
    with pytest.raises(ValueError, match="one cluster or more"):
        cluster_sheet([])


def test_cluster_headers():
    assert ClusterGroup(3, 41, []).header == "cluster 3 · 41 masks"
    assert ClusterGroup(3, 1, [], name="sheep").header == "cluster 3 · 1 mask · sheep"


def test_mask_crop_keeps_the_mask_and_fades_the_rest():
    image = np.zeros((100, 200, 3), np.uint8)
    image[:] = (200, 40, 40)
    mask = np.zeros((1, 100, 200), bool)
    mask[0, 30:60, 120:150] = True
    image[mask[0]] = (10, 120, 10)
    crop = mask_crop(image, Instances.from_masks(mask, labels=[4]), 0, side=128)
    assert crop.shape == (128, 128, 3)
    assert crop[64, 64].tolist() == [10, 120, 10]
    assert crop[2, 2].min() == crop[2, 2].max() > 180
    assert (crop == np.array(label_colour(5))).all(axis=2).sum() > 100
    assert image[0, 0].tolist() == [200, 40, 40]


@pytest.mark.parametrize("box", [(0, 0, 40, 10), (60, 70, 100, 100), (0, 0, 100, 100), (99, 99, 100, 100), (0, 40, 100, 44)])
def test_mask_crop_at_the_border_holds_the_whole_mask(box):
    x0, y0, x1, y1 = box
    image, mask = flat(0, 100, 100), np.zeros((1, 100, 100), bool)
    mask[0, y0:y1, x0:x1] = True
    image[mask[0]] = (0, 0, 255)
    crop = mask_crop(image, Instances.from_masks(mask), 0, cluster=1, side=100)
    assert crop.shape == (100, 100, 3)  # the window moves rather than shrinks
    window = min(round(1.16 * max(x1 - x0, y1 - y0)), 100) ** 2
    drawn = (crop.max(axis=2) != crop.min(axis=2)).mean()  # what is faded is grey
    assert drawn >= 0.95 * (x1 - x0) * (y1 - y0) / window


def test_mask_crop_of_an_empty_mask_draws():
    crop = mask_crop(flat(7), Instances.from_masks(np.zeros((1, 60, 80), bool)), 0)
    assert crop.ndim == 3


def test_text_fits_and_can_be_drawn():
    assert drawable("Zoë × – 図·a") == "Zoe x - ?·a"
    face = font(13)
    short = fit_text("holiday/2024/a very long name of an image.jpg", 120, face)
    assert face.getlength(short) <= 120
    assert short.startswith("hol")
    assert short.endswith("jpg")
    assert "…" in short
    assert fit_text("short", 120, face) == "short"
    assert fit_text("anything", 0, face) == ""


def test_cell_height_follows_the_middle_picture_within_limits():
    assert cell_height([flat(0, 60, 80), None, flat(0, 60, 80), flat(0, 800, 80)], 100) == 75
    assert cell_height([flat(0, 10, 800)], 100) == 60
    assert cell_height([], 100) == 100


def test_png_round_trip():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    assert np.array_equal(np.array(Image.open(io.BytesIO(to_png(picture)))), picture)
