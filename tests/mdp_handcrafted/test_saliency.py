"""From map to masks by flood fill and loops; the prior itself on odd images and photographs."""

import warnings
from collections import deque

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mdp_core.api import Context, ImageRecord, Images, Instances
from mdp_handcrafted.saliency import Saliency, contrasts, level, salient_parts
from mdp_handcrafted.settings.saliency import SaliencyConfig

METHODS = ("background", "barrier", "spectral-residual")


def images_of(arrays):
    records = [ImageRecord(str(index), *array.shape[:2]) for index, array in enumerate(arrays)]
    return Images(records, lambda record: arrays[int(record.id)])


def mine(arrays, **given) -> list[Instances]:
    return list(Saliency(SaliencyConfig(**given), Context()).mine(images_of(arrays)))


def same(one: Instances, other: Instances) -> bool:
    return one.masks == other.masks and (one.boxes == other.boxes).all() and (one.scores == other.scores).all()


def literal_threshold(values: np.ndarray, threshold: float | str) -> float:
    """Otsu: the edge between 256 bins with the largest variance between classes."""
    if threshold == "adaptive":
        return min(1.0, 2 * values.mean())
    if threshold != "otsu":
        return threshold
    counts, edges = np.histogram(values, 256)
    middles = (edges[1:] + edges[:-1]) / 2
    best, found = -1.0, 0.0
    for cut in range(1, 256):
        below, above = counts[:cut], counts[cut:]
        if below.sum() and above.sum():
            apart = (below @ middles[:cut]) / below.sum() - (above @ middles[cut:]) / above.sum()
            variance = below.sum() * above.sum() * apart**2
            if variance > best * (1 + 1e-12):
                best, found = variance, middles[cut - 1]
    return found


def literal_parts(values: np.ndarray, threshold: float, min_area: float) -> list[np.ndarray]:
    """Flood fill over eight neighbours from each pixel in turn."""
    height, width = values.shape
    seen, parts = np.zeros(values.shape, bool), []
    for y in range(height):
        for x in range(width):
            if values[y, x] > threshold and not seen[y, x]:
                part, queue = np.zeros(values.shape, bool), deque([(y, x)])
                while queue:
                    py, px = queue.popleft()
                    if 0 <= py < height and 0 <= px < width and values[py, px] > threshold and not part[py, px]:
                        part[py, px] = True
                        queue += [(py + dy, px + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
                seen |= part
                if part.sum() >= min_area * values.size:
                    parts.append(part)
    return sorted(parts, key=lambda part: -values[part].sum())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    threshold=st.sampled_from(["adaptive", 0.3, 0.5, 0.8]),
    min_area=st.sampled_from([0, 0.02, 0.1]),
)
def test_parts_and_scores_by_loops(seed, size, threshold, min_area):
    values = np.random.default_rng(seed).random(size)
    wanted = literal_parts(values, literal_threshold(values, threshold), min_area) if values.size > 1 else []
    found = salient_parts(values, threshold, min_area)
    assert found.tolist() == [part.tolist() for part in wanted]
    if wanted:
        outside = [v for v, taken in zip(values.ravel(), np.any(wanted, axis=0).ravel(), strict=True) if not taken]
        rest = sum(outside) / len(outside) if outside else 0
        scores = [min(max(values[part].sum() / part.sum() - rest, 0), 1) for part in wanted]
        np.testing.assert_allclose(contrasts(values, found), scores, rtol=1e-6, atol=1e-7)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.1, 0.9))
def test_otsu_by_loops(seed, share):
    rng = np.random.default_rng(seed)
    values = np.clip(np.where(rng.random(400) < share, rng.normal(0.3, 0.1, 400), rng.normal(0.7, 0.1, 400)), 0, 1)
    assert level(values.reshape(20, 20), "otsu") == pytest.approx(literal_threshold(values, "otsu"), abs=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 2), (5, 3), (3, 900), (900, 3), (64, 64)])
def test_odd_images(method, size):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    arrays = [noise, noise[..., :1].repeat(3, axis=-1), *(np.full((*size, 3), grey, np.uint8) for grey in (0, 119, 255))]
    for threshold in (0.5, "otsu", "adaptive"):
        found = mine(arrays, method=method, threshold=threshold, masks=3)
        assert [len(one) for one in found[2:]] == [0, 0, 0]
        for one in found:
            assert one.size == size
            assert (one.areas() > 0).all()
            assert ((one.scores >= 0) & (one.scores <= 1)).all()
            assert (one.labels == -1).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_huge_image(method):
    pixels = np.full((2500, 3600, 3), (60, 90, 60), np.uint8)
    cv2.circle(pixels, (1800, 1200), 500, (200, 40, 40), -1)
    (found,) = mine([pixels], method=method)
    assert found.size == (2500, 3600)
    assert len(found) == 1
    if method != "spectral-residual":
        disc = np.zeros((2500, 3600), np.uint8)
        cv2.circle(disc, (1800, 1200), 500, 1, -1)
        assert (found.mask(0) & (disc > 0)).sum() / (found.mask(0) | (disc > 0)).sum() > 0.9


def two_discs() -> np.ndarray:
    pixels = np.full((90, 140, 3), (60, 90, 60), np.uint8)
    cv2.circle(pixels, (40, 45), 20, (200, 40, 40), -1)
    cv2.circle(pixels, (105, 45), 14, (200, 40, 40), -1)
    return pixels


@pytest.mark.parametrize("method", ["background", "barrier"])
def test_two_objects_are_two_masks_or_one(method):
    pixels = two_discs()
    (both,), (one,), (joined,) = (mine([pixels], method=method, **given) for given in ({"masks": 5}, {}, {"parts": "together"}))
    assert len(both) == 2
    assert both.areas()[0] > both.areas()[1]
    assert one.masks == both.masks[:1]
    assert (joined.mask(0) == both.to_masks().any(axis=0)).all()
    assert len(mine([pixels], method=method, masks=5, min_area=0.07)[0]) == 1
    assert len(mine([pixels], method=method, masks=5, min_score=1.0)[0]) == 0


@pytest.mark.parametrize("method", METHODS)
def test_photographs_alone_together_and_with_other_threads(method, photographs):
    arrays = photographs(10)
    before = [array.copy() for array in arrays]
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        alone = [mine([array], method=method)[0] for array in arrays]
        cv2.setNumThreads(4)
        together = mine(arrays[::-1], method=method)[::-1]
    finally:
        cv2.setNumThreads(threads)
    assert all(same(*pair) for pair in zip(alone, together, strict=True))
    assert all((now == then).all() for now, then in zip(arrays, before, strict=True))
    assert sum(len(one) for one in alone) >= 5
    mapped = [Saliency(SaliencyConfig(method=method), Context()).map(array) for array in arrays]
    for array, values, found in zip(arrays, mapped, alone, strict=True):
        assert values.shape == array.shape[:2]
        parts = literal_parts_of(values)
        assert [found.mask(i).tolist() for i in range(len(found))] == [part.tolist() for part in parts[:1]]


def literal_parts_of(values: np.ndarray) -> list[np.ndarray]:
    """The same rule through OpenCV's components."""
    count, labels = cv2.connectedComponents((values > 0.5).astype(np.uint8), connectivity=8)
    parts = [labels == index for index in range(1, count)]
    return sorted((p for p in parts if p.sum() >= 0.01 * values.size), key=lambda p: -values[p].sum(dtype=np.float64))


def test_no_warnings_where_nothing_is_found():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [len(one) for method in METHODS for one in mine([np.zeros((0, 0, 3), np.uint8)][:0], method=method)] == []


@pytest.mark.parametrize("given", [{"threshold": 1.5}, {"threshold": "most"}, {"masks": 0}, {"method": "deep"}, {"side": 3}])
def test_settings_that_are_none(given):
    with pytest.raises(ValidationError):
        SaliencyConfig(**given)
