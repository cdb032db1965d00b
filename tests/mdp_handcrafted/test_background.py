"""Robust background detection against the paper's equations with loops, shortest paths by Floyd and Warshall, and a dense solve."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp_handcrafted.background import (
    Superpixels,
    background_map,
    connectivity,
    distances,
    optimised,
    superpixels_of,
    weighted_contrast,
)
from mdp_handcrafted.colour import to_lab, within


def literal_saliency(found: Superpixels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Equations 3 to 10. Returns boundary connectivity, contrast and saliency of each superpixel."""
    n = len(found.colours)
    apart = np.array([[np.linalg.norm(a - b) for b in found.colours] for a in found.colours])
    geodesic = np.full((n, n), np.inf)
    for i in range(n):
        geodesic[i, i] = 0
        for j in range(n):
            if i != j and (found.neighbours[i, j] or (found.border[i] and found.border[j])):
                geodesic[i, j] = apart[i, j]
    for k in range(n):
        for i in range(n):
            geodesic[i] = np.minimum(geodesic[i], geodesic[i, k] + geodesic[k])
    connected = np.zeros(n)
    for i in range(n):
        area = sum(np.exp(-(geodesic[i, j] ** 2) / 200) for j in range(n))
        length = sum(np.exp(-(geodesic[i, j] ** 2) / 200) for j in range(n) if found.border[j])
        connected[i] = length / np.sqrt(area)
    background = 1 - np.exp(-(connected**2) / 2)
    contrast = np.zeros(n)
    for i in range(n):
        for j in range(n):
            away = ((found.places[i] - found.places[j]) ** 2).sum()
            contrast[i] += apart[i, j] * np.exp(-away / (2 * 0.25**2)) * background[j]
    matrix, right = np.zeros((n, n)), np.zeros(n)
    foreground = contrast / max(contrast.max(), 1e-300)
    for i in range(n):  # half of the gradient of Eq. 9, with each pair of neighbours once
        matrix[i, i] += background[i] + foreground[i]
        right[i] = foreground[i]
        for j in range(n):
            if found.neighbours[i, j]:
                weight = np.exp(-(apart[i, j] ** 2) / 200) + 0.1
                matrix[i, i] += weight
                matrix[i, j] -= weight
    return connected, contrast, np.linalg.lstsq(matrix, right, rcond=None)[0]


def check(found: Superpixels) -> np.ndarray:
    apart = distances(found.colours)
    connected, contrast, saliency = literal_saliency(found)
    measured = connectivity(apart, found)
    np.testing.assert_allclose(measured, connected, rtol=1e-6)
    background = 1 - np.exp(-(measured**2) / 2)
    weighted = weighted_contrast(apart, found.places, background)
    np.testing.assert_allclose(weighted * len(apart), contrast, rtol=1e-6, atol=1e-9)
    if contrast.max() > 1e-6:
        result = optimised(apart, found, background, weighted / weighted.max())
        np.testing.assert_allclose(result, saliency, rtol=1e-5, atol=1e-7)
        assert result.min() >= -1e-12
        assert result.max() <= 1 + 1e-12
    return saliency


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 14), colours=st.integers(1, 5), joined=st.floats(0, 1))
def test_equals_the_equations_on_random_graphs(seed, n, colours, joined):
    rng = np.random.default_rng(seed)
    neighbours = np.triu(rng.random((n, n)) < joined, 1) | np.eye(n, k=1, dtype=bool)  # those of an image hang together
    found = Superpixels(
        labels=np.arange(n)[None],
        colours=rng.normal(50, 15, (colours, 3))[rng.integers(0, colours, n)],
        places=rng.random((n, 2)),
        neighbours=neighbours | neighbours.T,
        border=np.arange(n) <= rng.integers(0, n),
    )
    check(found)


def test_equals_the_equations_on_photographs(photographs):
    for photograph in photographs(10):
        pixels = within(photograph, 80)
        found = superpixels_of(pixels, 60)
        wanted = check(found)[found.labels]
        np.testing.assert_allclose(background_map(pixels, 60), wanted, rtol=1e-5, atol=1e-7)


def test_superpixels_by_loops():
    pixels = np.random.default_rng(3).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    found, lab = superpixels_of(pixels, 20), to_lab(pixels)
    labels, n = found.labels, len(found.colours)
    assert sorted(set(labels.ravel().tolist())) == list(range(n))
    touching = set()
    for y in range(30):
        for x in range(41):
            for ny, nx in ((y + 1, x), (y, x + 1)):
                if ny < 30 and nx < 41 and labels[y, x] != labels[ny, nx]:
                    touching |= {(labels[y, x], labels[ny, nx]), (labels[ny, nx], labels[y, x])}
    assert touching == set(zip(*np.nonzero(found.neighbours), strict=True))
    for k in range(n):
        ys, xs = np.nonzero(labels == k)
        np.testing.assert_allclose(found.colours[k], lab[ys, xs].mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(found.places[k], [ys.mean() / 41, xs.mean() / 41], rtol=1e-9)
        assert found.border[k] == bool(({0, 29} & set(ys)) or ({0, 40} & set(xs)))


def test_a_disc_stands_out_and_one_that_the_border_cuts_less():
    y, x = np.mgrid[:90, :120]
    inside, cut = (y - 45) ** 2 + (x - 70) ** 2 < 18**2, (y - 45) ** 2 + x**2 < 18**2
    colours = np.select([inside[..., None], cut[..., None]], [np.array([200, 40, 40])] * 2, np.array([60, 90, 60]))
    found = background_map(colours.astype(np.uint8), 150)
    assert found[inside].mean() > 0.7
    assert found[~inside & ~cut].mean() < 0.3
    assert found[inside].mean() > found[cut].mean() + 0.2


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_nothing_stands_out_of_one_colour_nor_of_what_cannot_be_seen(grey):
    pixels = np.full((50, 70, 3), grey, np.uint8)
    assert not background_map(pixels, 60).any()
    pixels[20:30, 30:40] ^= 1
    assert not background_map(pixels, 60).any()
