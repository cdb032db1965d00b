"""``superpixel`` against pixel sets and exact fractions."""

import warnings
from fractions import Fraction
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.segmentation import slic

from mdp_core.api import Context
from mdp_handcrafted.region_prior import shrunk
from mdp_handcrafted.regions import merge, region_graph, to_lab
from mdp_handcrafted.settings.superpixel import FelzenszwalbConfig, SlicConfig, SuperpixelConfig
from mdp_handcrafted.superpixel import Superpixel, contrast, separation, superpixels, ward

spec = spec_from_file_location("literal_regions", Path(__file__).parent / "literal_regions.py")
literal = module_from_spec(spec)
spec.loader.exec_module(literal)

METHODS = ["slic", "felzenszwalb"]


def literal_contrast(scene, leaf: dict, means: list, region) -> float:
    """The distance of two colours, averaged over the pixel sides between the region and what is around it."""
    own, outer = scene.mean(region), [leaf[q] for _, q in scene.sides(region)]
    away = {i: float(sum((a - b) ** 2 for a, b in zip(own, means[i], strict=True))) ** 0.5 for i in set(outer)}
    distances = [away[i] for i in outer]
    return sum(distances) / len(distances) if distances else 0.0


def literal_separation(scene, region) -> Fraction:
    """What of the squared error goes when the region and the rest have a mean each."""
    error = scene.error(scene.pixels)
    rest = scene.pixels - region
    return 1 - (scene.error(region) + scene.error(rest)) / error if rest and error else Fraction(0)


def literal_scores(scene, tree, config: SuperpixelConfig) -> list[float]:
    leaf = {p: i for i in range(tree.leaves) for p in tree.nodes[i]}
    means, scores = [scene.mean(tree.nodes[i]) for i in range(tree.leaves)], []
    for node, region in enumerate(tree.nodes):
        score = 0.0
        if literal.object_sized(scene, tree, node, config):
            found = literal_contrast(scene, leaf, means, region)
            if found >= config.min_contrast:
                score = (min(found / 100, 1) * float(literal_separation(scene, region))) ** 0.5
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
    min_contrast=st.sampled_from([0.0, 20.0]),
    max_area=st.sampled_from([0.5, 1.0]),
)
def test_scores_equal_those_counted_pixel_by_pixel(labels, seed, border, min_contrast, max_area):
    lab = np.random.default_rng(seed).integers(-3000, 3000, (*labels.shape, 3))
    config = SuperpixelConfig(border=border, min_contrast=min_contrast, max_area=max_area)
    scene = literal.Scene.of(lab)
    wanted = literal.grow(scene, labels, literal.ward)
    assume(wanted.gap > 1e-9)
    tree = merge(region_graph(labels, lab), ward)
    found = Superpixel(config, Context()).scores(tree)
    np.testing.assert_allclose(
        np.where([literal.object_sized(scene, wanted, i, config) for i in range(len(found))], found, 0),
        literal_scores(scene, wanted, config),
        atol=1e-7,  # the root of a difference of fractions, where a separation is nearly 0
    )
    assert ((found >= 0) & (found <= 1)).all()


def literal_mine(pixels: np.ndarray, config: SuperpixelConfig) -> tuple[list[np.ndarray], list[float], float]:
    """Everything after the superpixels with loops; also how near the nearest merge was to a tie."""
    small = shrunk(pixels, config.max_side)
    lab = to_lab(small)
    scene = literal.Scene.of(lab)
    tree = literal.grow(scene, superpixels(small, lab, config), literal.ward)
    scores = literal_scores(scene, tree, config)
    chosen = literal.choose(scene, tree.nodes, scores, config)
    masks = [literal.bitmap(scene, region, pixels.shape[:2]) for region, _ in chosen]
    return masks, [scores[node] for _, node in chosen], tree.gap


@pytest.mark.parametrize("method", METHODS)
def test_photographs_equal_the_literal_method(method, photographs):
    config = SuperpixelConfig(
        method=method, max_side=48, masks=3, slic=SlicConfig(segments=40), felzenszwalb=FelzenszwalbConfig(min_size=20)
    )
    arrays = photographs(10)
    mined = list(Superpixel(config, Context()).mine(literal.images_of(arrays)))
    assert sum(map(len, mined)) > 10
    for pixels, found in zip(arrays, mined, strict=True):
        masks, scores, gap = literal_mine(pixels, config)
        assert gap > 1e-12  # no merge is a near tie, so floats and fractions agree
        assert found.to_masks().tolist() == [mask.tolist() for mask in masks]
        np.testing.assert_allclose(found.scores, scores, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", literal.ODD)
def test_odd_images(method, name):
    size, random = literal.ODD[name], np.random.default_rng(0)
    noise = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    grey, black = np.full((*size, 3), 128, np.uint8), np.zeros((*size, 3), np.uint8)
    before = noise.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mined = list(
            Superpixel(SuperpixelConfig(method=method, masks=4), Context()).mine(literal.images_of([noise, grey, black]))
        )
    assert [len(found) for found in mined[1:]] == [0, 0]  # one colour: no object
    assert [found.size for found in mined] == [size] * 3
    assert (mined[0].areas() > 0).all()
    assert ((mined[0].scores > 0) & (mined[0].scores <= 1)).all()
    assert (noise == before).all()


def square(brighter: int, noise: float = 0.0) -> np.ndarray:
    pixels = np.full((150, 200, 3), 100.0)
    pixels[50:100, 75:125] += brighter
    return np.clip(pixels + np.random.default_rng(0).normal(0, noise, pixels.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("method", METHODS)
def test_a_square_is_found_and_noise_is_not(method):
    prior = Superpixel(SuperpixelConfig(method=method), Context())
    (clear, faint, invisible, nothing) = prior.mine(literal.images_of([square(120), square(60, 4), square(1, 8), square(0, 8)]))
    truth = square(120)[..., 0] > 150
    assert (clear.mask(0) == truth).mean() > 0.99
    assert (faint.mask(0) == truth).mean() > 0.98
    assert len(invisible) == len(nothing) == 0


def test_a_white_square_alone_on_black_scores_nearly_1():
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[30:60, 30:60] = 255
    lab, labels = to_lab(pixels), (pixels[..., 0] > 0).astype(int)
    tree = merge(region_graph(labels, lab), ward)
    assert contrast(tree, np.ones(3, bool))[1] == pytest.approx(100)
    assert separation(tree)[:2] == pytest.approx([1, 1])
    assert Superpixel(SuperpixelConfig(), Context()).scores(tree)[1] == pytest.approx(1)
    (found,) = Superpixel(SuperpixelConfig(), Context()).mine(literal.images_of([pixels]))
    assert found.scores[0] > 0.9


def test_masks_share_no_pixel_and_come_best_first():
    many = [blobs(seed) for seed in range(3)]
    mined = Superpixel(SuperpixelConfig(masks=5), Context()).mine(literal.images_of(many))
    for pixels, found in zip(many, mined, strict=True):
        assert len(found) > 1
        assert found.to_masks().sum(axis=0).max() == 1
        assert (np.diff(found.scores) <= 0).all()
        assert (found.areas() >= 0.005 * pixels.shape[0] * pixels.shape[1]).all()


def blobs(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    pixels = np.full((90, 130, 3), random.integers(60, 120, 3), np.uint8)
    for left in (15, 60, 95):
        pixels[25:60, left : left + 25] = random.integers(130, 255, 3)
    return np.clip(pixels + random.normal(0, 5, pixels.shape), 0, 255).astype(np.uint8)


def test_an_image_does_not_depend_on_the_others():
    many, prior = [blobs(seed) for seed in range(4)], Superpixel(SuperpixelConfig(masks=3), Context())
    together = list(prior.mine(literal.images_of(many)))
    for pixels, found in zip(many, together, strict=True):
        (alone,) = prior.mine(literal.images_of([pixels]))
        assert alone.masks == found.masks
        assert alone.scores.tolist() == found.scores.tolist()


def test_slic_is_scikit_images_where_an_image_uses_all_of_its_range():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    pixels[0, 0], pixels[0, 1] = 0, 255
    config = SuperpixelConfig(slic=SlicConfig(segments=30, compactness=40))
    ours, theirs = superpixels(pixels, to_lab(pixels), config), slic(pixels, n_segments=30, compactness=40, start_label=0)
    assert (ours == theirs).mean() > 0.97  # Lab is rounded to 1/64


def test_slic_keeps_its_grid_where_a_dull_image_is_but_noise():
    dull = square(0, 2)
    config = SuperpixelConfig(slic=SlicConfig(segments=30))
    ours, theirs = superpixels(dull, to_lab(dull), config), slic(dull, n_segments=30, compactness=10, start_label=0)
    assert theirs.max() == 0  # stretched, the noise outweighs nearness; pieces too small to be superpixels are swallowed
    assert ours.max() + 1 == 30
    assert np.bincount(ours.ravel()).min() > 0.5 * dull[..., 0].size / 30
