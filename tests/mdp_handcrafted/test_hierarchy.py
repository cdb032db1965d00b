"""``hierarchy`` against pixel sets and exact fractions."""

import warnings
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.segmentation import watershed

from mdp_core.api import Context
from mdp_handcrafted.hierarchy import Hierarchy, boundary, gradient
from mdp_handcrafted.region_prior import shrunk
from mdp_handcrafted.regions import merge, region_graph, to_lab
from mdp_handcrafted.settings.hierarchy import HierarchyConfig

spec = spec_from_file_location("literal_regions", Path(__file__).parent / "literal_regions.py")
literal = module_from_spec(spec)
spec.loader.exec_module(literal)


def literal_scores(scene, tree, config: HierarchyConfig) -> list[float]:
    """(death - birth) / the last birth, where a region is told from what it merges with."""
    scores = []
    for node, region in enumerate(tree.nodes):
        score = 0.0
        if literal.object_sized(scene, tree, node, config) and tree.deaths[node] >= config.threshold:
            both = zip(scene.mean(region), scene.mean(tree.nodes[tree.siblings[node]]), strict=True)
            if float(sum((a - b) ** 2 for a, b in both)) ** 0.5 >= config.min_contrast and tree.births[-1] > 0:
                score = (tree.deaths[node] - tree.births[node]) / tree.births[-1]
                if config.border is not None:
                    score *= np.exp(-(scene.border(region) ** 2) / len(region) / (2 * config.border**2))
        scores.append(score)
    return scores


@settings(deadline=None)
@given(
    labels=st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(
        lambda size: arrays(np.int64, size, elements=st.integers(0, 8))
    ),
    seed=st.integers(0, 10_000),
    border=st.sampled_from([None, 0.5, 1.0]),
    threshold=st.sampled_from([0.0, 2.0]),
    min_contrast=st.sampled_from([0.0, 40.0]),
    power=st.sampled_from([0.0, 0.5]),
)
def test_scores_equal_those_counted_pixel_by_pixel(*, labels, seed, border, threshold, min_contrast, power):
    random = np.random.default_rng(seed)
    lab, slope = random.integers(-3000, 3000, (*labels.shape, 3)), random.integers(0, 500, labels.shape)
    config = HierarchyConfig(border=border, threshold=threshold, min_contrast=min_contrast, size_power=power)
    scene = literal.Scene.of(lab, slope)
    wanted = literal.grow(scene, labels, literal.boundary(power))
    found = Hierarchy(config, Context()).scores(merge(region_graph(labels, lab, slope), boundary(labels.size, power)))
    np.testing.assert_allclose(
        np.where([literal.object_sized(scene, wanted, i, config) for i in range(len(found))], found, 0),
        literal_scores(scene, wanted, config),
        atol=1e-12,
    )
    assert ((found >= 0) & (found <= 1)).all()


def literal_gradient(lab: np.ndarray, sigma: float) -> np.ndarray:
    """Blur and Sobel as sums over the neighbours of each pixel; beyond the image its edge goes on."""
    height, width = lab.shape[:2]
    radius = int(4 * sigma + 0.5)
    kernel = [np.exp(-(i**2) / (2 * sigma**2)) for i in range(-radius, radius + 1)] if sigma else [1.0]

    def at(values: np.ndarray, y: int, x: int) -> np.ndarray:
        return values[min(max(y, 0), height - 1), min(max(x, 0), width - 1)]

    blurred = lab.astype(float)
    for dy, dx in ((1, 0), (0, 1)):
        weighted = np.zeros_like(blurred)
        for y in range(height):
            for x in range(width):
                for i, weight in enumerate(kernel):
                    weighted[y, x] += weight / sum(kernel) * at(blurred, y + dy * (i - radius), x + dx * (i - radius))
        blurred = weighted
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            down = sum(w * (at(blurred, y + 1, x + i) - at(blurred, y - 1, x + i)) for i, w in ((-1, 1), (0, 2), (1, 1))) / 8
            right = sum(w * (at(blurred, y + i, x + 1) - at(blurred, y + i, x - 1)) for i, w in ((-1, 1), (0, 2), (1, 1))) / 8
            out[y, x] = np.sqrt((down**2 + right**2).sum())
    return out


@pytest.mark.parametrize("sigma", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("size", [(9, 7), (1, 6), (5, 1)])
def test_the_gradient_equals_sums_over_neighbours(sigma, size):
    lab = np.random.default_rng(0).integers(-3000, 6400, (*size, 3))
    assert abs(gradient(lab, sigma) - literal_gradient(lab, sigma)).max() <= 0.5 + 1e-6  # rounded


def test_the_gradient_is_in_units_of_lab_a_pixel():
    ramp = np.zeros((10, 30, 3), np.int64)
    ramp[..., 0] = 64 * np.arange(30)
    assert (gradient(ramp, 1.0)[:, 8:-8] == 64).all()


def test_photographs_equal_the_literal_method(photographs):
    config = HierarchyConfig(max_side=48, masks=3, sigma=1.5)
    arrays = photographs(10)
    mined = list(Hierarchy(config, Context()).mine(literal.images_of(arrays)))
    assert sum(map(len, mined)) > 10
    for pixels, found in zip(arrays, mined, strict=True):
        lab = to_lab(shrunk(pixels, config.max_side))
        slope = gradient(lab, config.sigma)
        scene = literal.Scene.of(lab, slope)
        tree = literal.grow(scene, watershed(slope), literal.boundary(config.size_power))
        scores = literal_scores(scene, tree, config)
        chosen = literal.choose(scene, tree.nodes, scores, config)
        masks = [literal.bitmap(scene, region, pixels.shape[:2]) for region, _ in chosen]
        assert found.to_masks().tolist() == [mask.tolist() for mask in masks]
        np.testing.assert_allclose(found.scores, [scores[node] for _, node in chosen], rtol=1e-6)


@pytest.mark.parametrize("name", literal.ODD)
def test_odd_images(name):
    size, random = literal.ODD[name], np.random.default_rng(0)
    noise = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    grey, black = np.full((*size, 3), 128, np.uint8), np.zeros((*size, 3), np.uint8)
    before = noise.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mined = list(Hierarchy(HierarchyConfig(masks=4), Context()).mine(literal.images_of([noise, grey, black])))
    assert [len(found) for found in mined[1:]] == [0, 0]  # one colour: no object
    assert [found.size for found in mined] == [size] * 3
    assert (mined[0].areas() > 0).all()
    assert ((mined[0].scores > 0) & (mined[0].scores <= 1)).all()
    assert (noise == before).all()


def test_a_square_is_found_and_noise_is_not():
    pixels = np.full((150, 200, 3), 100.0)
    noise = np.random.default_rng(0).normal(0, 6, pixels.shape)
    nothing = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    pixels[50:100, 75:125] += 60
    found, none = Hierarchy(HierarchyConfig(), Context()).mine(
        literal.images_of([np.clip(pixels + noise, 0, 255).astype(np.uint8), nothing])
    )
    assert (found.mask(0) == (pixels[..., 0] > 130)).mean() > 0.98
    assert found.scores[0] > 0.5
    assert len(none) == 0


def test_a_region_that_outlasts_its_parts_wins():
    pixels = np.full((120, 160, 3), 40, np.uint8)
    pixels[40:80, 40:80], pixels[40:80, 80:120] = 200, 230  # two halves of one thing
    whole = HierarchyConfig()
    (found,) = Hierarchy(whole, Context()).mine(literal.images_of([pixels]))
    assert (found.mask(0) == (pixels[..., 0] > 100)).mean() > 0.98
    (three,) = Hierarchy(HierarchyConfig(masks=3, max_iou=0.6), Context()).mine(literal.images_of([pixels]))
    assert len(three) == 3  # its halves come after it, where overlap is allowed
    assert (three.to_masks()[1:] <= three.mask(0)).all()


def test_masks_share_no_pixel_and_come_best_first(photographs):
    (photograph,) = photographs(1)
    (found,) = Hierarchy(HierarchyConfig(masks=6), Context()).mine(literal.images_of([photograph]))
    assert len(found) == 6
    assert found.to_masks().sum(axis=0).max() == 1
    assert (np.diff(found.scores) <= 0).all()
    (again,) = Hierarchy(HierarchyConfig(masks=6), Context()).mine(literal.images_of([photograph]))
    assert again.masks == found.masks
