"""Region graphs and merging against sets of pixels and exact fractions."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mdp_handcrafted import hierarchy, superpixel
from mdp_handcrafted.region_prior import best, border_prior, enlarged, of_object_size, shrunk
from mdp_handcrafted.regions import merge, region_graph, to_lab
from mdp_handcrafted.settings.regions import RegionPriorConfig

spec = spec_from_file_location("literal_regions", Path(__file__).parent / "literal_regions.py")
literal = module_from_spec(spec)
spec.loader.exec_module(literal)

SIZES = st.tuples(st.integers(1, 7), st.integers(1, 7))
LABELS = SIZES.flatmap(lambda size: arrays(np.int64, size, elements=st.integers(0, 8)))


def planes(labels: np.ndarray, seed: int, most: int = 6400) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(-most, most + 1, (*labels.shape, 3)), random.integers(0, 500, labels.shape)


def pixels_of(mask: np.ndarray) -> frozenset:
    return frozenset((int(y), int(x)) for y, x in np.argwhere(mask))


def same(tree, wanted) -> None:
    assert [pixels_of(tree.mask(node)) for node in range(len(tree.areas))] == wanted.nodes
    np.testing.assert_allclose(tree.births, wanted.births, rtol=1e-12)
    np.testing.assert_allclose(tree.deaths, wanted.deaths, rtol=1e-12)
    assert tree.siblings.tolist() == wanted.siblings
    assert tree.areas.tolist() == [len(node) for node in wanted.nodes]


@given(labels=LABELS, seed=st.integers(0, 10_000))
def test_the_graph_is_what_counting_pixels_gives(labels, seed):
    lab, gradient = planes(labels, seed)
    scene, graph = literal.Scene.of(lab, gradient), region_graph(labels, lab, gradient)
    regions = [frozenset(p for p in scene.lab if labels[p] == label) for label in np.unique(labels)]
    assert [pixels_of(graph.labels == i) for i in range(len(regions))] == regions
    assert graph.areas.tolist() == [len(region) for region in regions]
    assert graph.borders.tolist() == [scene.border(region) for region in regions]
    assert graph.colours.tolist() == [[sum(scene.lab[p][c] for p in region) for c in range(3)] for region in regions]
    assert graph.squares == sum(value**2 for colour in scene.lab.values() for value in colour)
    edges = []
    for a, one in enumerate(regions):
        for b, other in enumerate(regions[a + 1 :], start=a + 1):
            sides = [(p, q) for p, q in scene.sides(one) if q in other]
            if sides:
                edges.append(([a, b], len(sides), sum(scene.gradient[p] + scene.gradient[q] for p, q in sides)))
    assert list(zip(graph.pairs.tolist(), graph.lengths.tolist(), graph.strengths.tolist(), strict=True)) == edges


@settings(deadline=None)
@given(labels=LABELS, seed=st.integers(0, 10_000))
def test_merging_by_colour_equals_looking_at_all_pairs(labels, seed):
    lab, _ = planes(labels, seed)
    wanted = literal.grow(literal.Scene.of(lab), labels, literal.ward)
    assume(wanted.gap > 1e-9)  # exact ties of two different sums may go either way
    same(merge(region_graph(labels, lab), superpixel.ward), wanted)


@settings(deadline=None)
@given(labels=LABELS, seed=st.integers(0, 10_000), power=st.sampled_from([0.0, 0.5, 1.0]), few=st.booleans())
def test_merging_by_boundary_equals_looking_at_all_pairs(labels, seed, power, few):
    lab, gradient = planes(labels, seed)
    gradient = gradient % 2 if few else gradient  # many ties, which the lower pair wins
    wanted = literal.grow(literal.Scene.of(lab, gradient), labels, literal.boundary(power))
    same(merge(region_graph(labels, lab, gradient), hierarchy.boundary(labels.size, power)), wanted)


def test_of_equal_costs_the_lower_pair_merges_first():
    labels, lab = np.arange(12).reshape(3, 4), np.zeros((3, 4, 3), np.int64)
    tree = merge(region_graph(labels, lab), superpixel.ward)
    same(tree, literal.grow(literal.Scene.of(lab), labels, literal.ward))
    assert pixels_of(tree.mask(12)) == {(0, 0), (0, 1)}
    assert not tree.births.any()


@given(labels=LABELS, seed=st.integers(0, 10_000))
def test_a_tree_is_a_hierarchy(labels, seed):
    lab, gradient = planes(labels, seed)
    tree = merge(region_graph(labels, lab, gradient), hierarchy.boundary(labels.size, 0.0))
    held = [tree.holds(node) for node in range(len(tree.areas))]
    assert held[-1].all()
    assert (tree.deaths >= tree.births).all()
    assert np.isinf(tree.deaths[-1])
    for a, one in enumerate(held):
        for b, other in enumerate(held):
            inside = bool((one & other).any())
            assert tree.nested(a, b) == inside
            assert not inside or (one <= other).all() or (other <= one).all()


@settings(deadline=None)
@given(
    labels=LABELS,
    seed=st.integers(0, 10_000),
    count=st.integers(1, 6),
    max_iou=st.sampled_from([0.0, 0.3, 0.8]),
    fill_holes=st.booleans(),
    max_area=st.sampled_from([0.3, 0.6, 1.0]),
    min_score=st.sampled_from([0.0, 0.5]),
)
def test_the_best_nodes_are_those_of_the_literal_choice(*, labels, seed, count, max_iou, fill_holes, max_area, min_score):
    lab, _ = planes(labels, seed)
    scene, tree = literal.Scene.of(lab), merge(region_graph(labels, lab), superpixel.ward)
    config = RegionPriorConfig(
        masks=count, max_iou=max_iou, fill_holes=fill_holes, max_area=max_area, min_area=0, min_score=min_score
    )
    scores = (np.random.default_rng(seed).integers(0, 5, len(tree.areas)) / 4).astype(np.float32)  # many ties
    masks, nodes = best(tree, scores, config)
    regions = [pixels_of(tree.mask(node)) for node in range(len(tree.areas))]
    assert list(zip(map(pixels_of, masks), nodes, strict=True)) == literal.choose(scene, regions, scores.tolist(), config)


def test_a_ring_is_filled_unless_it_would_be_too_large():
    labels = np.zeros((9, 9), int)
    labels[2:7, 2:7], labels[4, 4] = 1, 2
    tree = merge(region_graph(labels, np.zeros((9, 9, 3), np.int64)), superpixel.ward)
    scores = np.array([0, 1, 0, 0, 0], np.float32)
    for max_area, pixels in ((0.5, 25), (0.3, 24)):
        masks, nodes = best(tree, scores, RegionPriorConfig(max_area=max_area))
        assert nodes == [1]
        assert masks[0].sum() == pixels


@given(labels=LABELS, seed=st.integers(0, 10_000), sigma=st.floats(0.2, 5))
def test_the_border_prior_counts_sides_on_the_border(labels, seed, sigma):
    lab, _ = planes(labels, seed)
    scene, tree = literal.Scene.of(lab), merge(region_graph(labels, lab), superpixel.ward)
    for node, prior in enumerate(border_prior(tree, sigma)):
        region = pixels_of(tree.mask(node))
        assert prior == pytest.approx(np.exp(-((scene.border(region) / len(region) ** 0.5) ** 2) / (2 * sigma**2)))
    assert (border_prior(tree, None) == 1).all()


def test_only_regions_of_an_objects_size_keep_their_score():
    labels = np.zeros((10, 10), int)
    labels[0, 0], labels[5:, :5] = 1, 2
    tree = merge(region_graph(labels, np.zeros((10, 10, 3), np.int64)), superpixel.ward)
    ones = np.ones(len(tree.areas))
    kept = of_object_size(tree, ones, 0.1, 0.5) > 0
    assert kept.tolist() == [10 <= area <= 50 for area in tree.areas]
    assert of_object_size(tree, ones, 0, 1)[-1] == 0  # the whole image never does


@given(size=st.tuples(st.integers(1, 40), st.integers(1, 40)), small=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_masks_come_back_at_the_nearest_pixel_and_none_is_lost(size, small):
    small = min(size[0], small[0]), min(size[1], small[1])
    numbers = np.arange(small[0] * small[1]).reshape(small)
    back = enlarged(numbers, size)
    scene = literal.Scene.of(np.zeros((*small, 3), int))
    assert set(back.ravel()) == set(numbers.ravel())
    middle = small[0] // 2, small[1] // 2
    assert (literal.bitmap(scene, frozenset([middle]), size) == (back == numbers[middle])).all()


def test_only_larger_images_are_shrunk():
    pixels = np.zeros((100, 3, 3), np.uint8)
    assert shrunk(pixels, 100) is pixels
    assert shrunk(pixels, None) is pixels
    assert shrunk(pixels, 50).shape == (50, 2, 3)
    assert shrunk(pixels, 16).shape == (16, 1, 3)


def test_greys_have_no_colour_and_white_is_a_hundred():
    lab = to_lab(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2))
    assert not lab[..., 1:].any()
    assert (np.diff(lab[0, :, 0]) > 0).all()
    assert lab[0, -1, 0] == 100 * 64
    red = to_lab(np.array([[[255, 0, 0]]], np.uint8))[0, 0] / 64
    np.testing.assert_allclose(red, [53.24, 80.09, 67.20], atol=0.02)  # CIE Lab of sRGB red under D65


def test_settings_that_leave_no_region_are_an_error():
    with pytest.raises(ValueError, match="no region can be an object"):
        RegionPriorConfig(min_area=0.6, max_area=0.5)
