from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask
from scipy import ndimage
from skimage import measure

from mdp_core.data.polygons import to_polygons


def filled(polygons: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    """Rasterises polygons as pycocotools does."""
    return np.asarray(coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *size))), np.bool_)


def literal(mask: np.ndarray, tolerance: float) -> list[list[float]]:
    """The same, point by point."""
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2))
    padded[1:-1, 1:-1] = mask
    result = []
    for contour in measure.find_contours(padded, 0.5):
        points = measure.approximate_polygon(np.array([[row - 1, column - 1] for row, column in contour]), tolerance)
        flat = [float(max(v, 0)) for row, column in points[:-1] for v in (column, row)]
        if len(flat) >= 6:
            result.append(flat)
    return result


def ring() -> np.ndarray:
    mask = np.zeros((100, 110), np.bool_)
    mask[20:80, 30:90] = True
    mask[40:60, 50:70] = False
    return mask


def test_a_hole_is_a_polygon_of_its_own_and_is_filled() -> None:
    polygons = to_polygons(ring())
    assert len(polygons) == 2
    # 3200 pixels become 3501: the hole's 400 are filled, and corners are cut by half a pixel
    assert (ring().sum(), filled(polygons, (100, 110)).sum()) == (3200, 3501)
    assert filled(polygons, (100, 110))[45:55, 55:65].all()


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 30), st.integers(1, 30)).flatmap(lambda s: hnp.arrays(np.bool_, s)),
    st.sampled_from([0.0, 1.0, 2.0]),
)
def test_the_points_are_those_of_a_literal_version(mask: np.ndarray, tolerance: float) -> None:
    assert to_polygons(mask, tolerance) == literal(mask, tolerance)


@pytest.mark.parametrize("seed", range(4))
def test_large_masks_stay_near_what_they_were(seed: int) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((120, 160)), 12)
    mask = ndimage.binary_fill_holes(noise > 0)
    found = filled(to_polygons(mask), mask.shape)
    to_border = ndimage.distance_transform_edt(np.pad(mask, 1)) + ndimage.distance_transform_edt(~np.pad(mask, 1))
    wrong = found != mask
    assert wrong.any()
    assert to_border[1:-1, 1:-1][wrong].max() <= 3.5  # 2 of the tolerance, and a pixel from centres to corners


def test_nothing_and_little_has_no_polygon() -> None:
    mask = np.zeros((20, 20), np.bool_)
    assert to_polygons(mask) == []
    mask[4, 5] = True
    assert to_polygons(mask) == []


def test_coordinates_at_the_border_are_not_negative() -> None:
    polygons = to_polygons(np.ones((30, 40), np.bool_))
    assert len(polygons) == 1
    xs, ys = polygons[0][0::2], polygons[0][1::2]
    assert (min(xs), min(ys)) == (0.0, 0.0)
    assert 39.0 <= max(xs) <= 39.5 and 29.0 <= max(ys) <= 29.5
