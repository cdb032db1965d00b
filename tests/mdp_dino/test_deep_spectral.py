"""deep-spectral against the paper's equations: dense matrices, dense eigenvectors, loops."""

import colorsys
import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.cluster import KMeans

from mdp_core.api import Context, ImageRecord, Images, Silence
from mdp_dino.deep_spectral import (
    DeepSpectral,
    background_first,
    below_the_largest_gap,
    colour_affinity,
    contrast,
    feature_affinity,
    k_means,
    refined,
    segments,
    smaller_side,
)
from mdp_dino.patches import Patches
from mdp_dino.settings.deep_spectral import DeepSpectralConfig


def literal_affinity(features: np.ndarray) -> np.ndarray:
    unit = [feature / np.linalg.norm(feature) for feature in features.astype(np.float64)]
    alike = np.array([[max(0.0, float(one @ other)) for other in unit] for one in unit])
    return alike / alike.max()


def literal_colours(colours: np.ndarray, count: int) -> tuple[np.ndarray, float]:
    """W_knn by sorting all distances, and whether they decide: how near a neighbour comes to one that is none, in float64's units."""
    rows, columns = colours.shape[:2]
    points = []
    for y in range(rows):
        for x in range(columns):
            hue, saturation, value = colorsys.rgb_to_hsv(*(float(channel) / 255 for channel in colours[y, x]))
            place = [x / max(columns - 1, 1), y / max(rows - 1, 1)]
            points.append([math.cos(2 * math.pi * hue), math.sin(2 * math.pi * hue), saturation, value, *place])
    points = np.array(points)
    weights, gap = np.zeros((len(points), len(points))), np.inf
    for u, here in enumerate(points):
        distances = np.sqrt(((points - here) ** 2).sum(axis=1))
        order = np.argsort(distances, kind="stable")
        for v in order[:count]:
            weight = max(0.0, 1 - distances[v])
            weights[u, v] += weight / 2
            weights[v, u] += weight / 2
        if count < len(points):
            gap = min(gap, distances[order[count]] - distances[order[count - 1]])
    return weights, gap * 1e7


def literal_spectrum(weights: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    degrees = np.diag(weights.sum(axis=1))
    values, vectors = scipy.linalg.eigh(degrees - weights, degrees)
    return values[:count], vectors[:, :count]


def literal_parts(mask: np.ndarray) -> list[np.ndarray]:
    """The 8-connected parts, by flood fill from each cell that is not yet in one."""
    seen, found = np.zeros_like(mask), []
    for start in zip(*np.nonzero(mask), strict=True):
        if seen[start]:
            continue
        part, queue = np.zeros_like(mask), [start]
        while queue:
            y, x = queue.pop()
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and not seen[y, x]:
                seen[y, x] = part[y, x] = True
                queue += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        found.append(part)
    return found


def literal_contrast(alike: np.ndarray, mask: np.ndarray) -> float:
    inside, outside = np.nonzero(mask.ravel())[0], np.nonzero(~mask.ravel())[0]
    within = [alike[i, j] for i in inside for j in inside if i != j]
    between = [alike[i, j] for i in inside for j in outside]
    if not within or not between or sum(within) == 0:
        return 0.0
    return min(1.0, max(0.0, 1 - np.mean(between) / np.mean(within)))


def literal_group(
    features: np.ndarray, colours: np.ndarray, config: DeepSpectralConfig
) -> tuple[list[tuple[float, np.ndarray]], float]:
    """Scores and masks (rows, columns), and the smallest distance of any decision to its tie."""
    grid = colours.shape[:2]
    alike = literal_affinity(features)
    knn, gap = literal_colours(colours, config.colour_neighbours) if config.colour_weight else (0.0, np.inf)
    weights = alike + config.colour_weight * knn
    values, vectors = literal_spectrum(weights, len(weights))
    if config.segments == "one":
        fiedler = vectors[:, 1]
        gap = min(gap, np.abs(fiedler).min() / np.abs(fiedler).max(), values[2] - values[1], values[1] - values[0])
        positive, negative = fiedler > 0, fiedler < 0
        side = min(positive, negative, key=sum)
        if positive.sum() == negative.sum():  # the side that goes farther
            side = max(positive, negative, key=lambda side: np.abs(fiedler[side]).max())
            gap = min(gap, abs(fiedler.max() + fiedler.min()))
        labels = side.astype(int).reshape(grid)
    else:
        count = config.eigenvectors
        gap = min(gap, values[count] - values[count - 1])
        clusters = config.clusters
        if clusters == "eigengap":
            steps = [(values[i + 1] - values[i], i + 1) for i in range(1, count - 1)]
            clusters = max(steps)[1]
        points = vectors[:, 1:count]
        labels = KMeans(clusters, n_init=10, random_state=0).fit_predict(points).reshape(grid)
        border = [labels[y, x] for y in range(grid[0]) for x in (0, -1)] + [
            labels[y, x] for x in range(grid[1]) for y in (0, -1)
        ]
        counts = [border.count(label) for label in range(clusters)]
        gap = min(gap, sorted(counts)[-1] - sorted(counts)[-2])
        labels = np.where(labels == np.argmax(counts), -1, labels) + 1
    found = []
    for label in sorted(set(labels[labels > 0].tolist())):
        parts = literal_parts(labels == label)
        if config.component == "largest":
            sizes = sorted((part.sum() for part in parts), reverse=True)
            gap = min(gap, sizes[0] - sizes[1] if len(sizes) > 1 else 1)
        mask = max(parts, key=lambda part: part.sum()) if config.component == "largest" else labels == label
        found.append((literal_contrast(alike, mask), mask))
    return [(score, mask) for score, mask in found if score > 1e-4], gap


def prior_of(**settings_) -> DeepSpectral:
    config = DeepSpectralConfig(**{"weights": "builtin:tiny", "short_side": 128, "centre_keys": True, **settings_})
    return DeepSpectral(config, Context(listener=Silence()))


def images_of(arrays: list[np.ndarray]) -> Images:
    records = [ImageRecord(str(i), *array.shape[:2]) for i, array in enumerate(arrays)]
    return Images(records, lambda record: arrays[int(record.id)])


def patches_of(features: np.ndarray, colours: np.ndarray) -> Patches:
    """An image of one pixel a patch."""
    return Patches({"k": torch.from_numpy(features)}, {}, colours.shape[:2], 1, 1, colours)


def same(found, wanted: list[tuple[float, np.ndarray]]) -> None:
    by_mask = {mask.tobytes(): score for score, mask in wanted}
    assert sorted(mask.tobytes() for mask in found.masks) == sorted(by_mask)
    for mask, score in zip(found.masks, found.scores, strict=True):
        assert score == pytest.approx(by_mask[mask.tobytes()], abs=1e-5)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    dim=st.integers(2, 12),
    colour_weight=st.sampled_from([0.0, 1.0, 10.0]),
    neighbours=st.integers(1, 30),
    component=st.sampled_from(["largest", "all"]),
    shift=st.floats(-1, 1),
)
def test_one_object_equals_dense_eigenvectors(*, seed, grid, dim, colour_weight, neighbours, component, shift):
    assume(grid[0] * grid[1] > 2)
    random = np.random.default_rng(seed)
    features = (random.normal(size=(grid[0] * grid[1], dim)) + shift).astype(np.float32)
    colours = random.integers(0, 256, (*grid, 3), dtype=np.uint8)
    chosen = {"colour_weight": colour_weight, "colour_neighbours": neighbours, "component": component}
    config = DeepSpectralConfig(**chosen)
    wanted, gap = literal_group(features, colours, config)
    assume(gap > 1e-4)
    same(DeepSpectral(config, Context(listener=Silence())).group(patches_of(features, colours)), wanted)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), clusters=st.sampled_from([2, 5, "eigengap"]), component=st.sampled_from(["largest", "all"])
)
def test_many_segments_equal_dense_eigenvectors(seed, clusters, component):
    random = np.random.default_rng(seed)
    kinds = random.normal(size=(6, 10)) + 0.5
    which = random.integers(0, 6, (4, 4)).repeat(2, axis=0).repeat(2, axis=1)
    features = (kinds[which.ravel()] + 0.2 * random.normal(size=(64, 10))).astype(np.float32)
    colours = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    config = DeepSpectralConfig(segments="many", eigenvectors=6, clusters=clusters, component=component, colour_weight=1)
    wanted, gap = literal_group(features, colours, config)
    assume(gap > 1e-4)
    same(DeepSpectral(config, Context(listener=Silence())).group(patches_of(features, colours)), wanted)


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"colour_weight": 0.0, "component": "all"},
        {"segments": "many", "clusters": 6},
        {"segments": "many", "clusters": "eigengap", "component": "all"},
    ],
    ids=str,
)
def test_photographs_equal_the_literal_method(chosen, photographs):
    arrays = photographs(10)
    prior = prior_of(**chosen)
    decided = 0
    for pixels, found in zip(arrays, prior.mine(images_of(arrays)), strict=True):
        height, width = pixels.shape[:2]
        short, size = min(height, width), [height, width]
        size = [128 if side == short else int(128 * side / short) for side in size]
        small = np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.BILINEAR))
        padded = np.pad(small, ((0, -size[0] % 8), (0, -size[1] % 8), (0, 0)), mode="edge")
        (patches,) = prior.read([padded])
        keys = patches.values["k"].double().numpy()
        colours = np.asarray(Image.fromarray(padded).resize(patches.grid[::-1], Image.BILINEAR))
        wanted, gap = literal_group(keys - keys.mean(axis=0), colours, prior.config)
        drawn = []
        for score, mask in wanted:
            out = np.zeros((height, width), bool)
            for y in range(height):
                row = int((y + 0.5) * size[0] / height) // 8
                for x in range(width):
                    out[y, x] = mask[row, int((x + 0.5) * size[1] / width) // 8]
            drawn.append((score, out))
        decided += gap > 1e-5
        masks = found.to_masks()
        if gap > 1e-5:  # no decision is a near tie, so float32 and float64 agree
            same(type("Found", (), {"masks": masks, "scores": found.scores}), drawn)
        assert (found.labels == -1).all()
    assert decided >= 8


def test_an_object_of_other_features_and_colour_is_found():
    random = np.random.default_rng(0)
    truth = np.zeros((12, 16), bool)
    truth[3:8, 5:11] = True
    features = np.where(truth.reshape(-1, 1), [1.0, 0.2, 0.0], [0.1, 0.0, 1.0]) + 0.05 * random.normal(size=(192, 3))
    colours = np.where(truth[..., None], [200, 40, 40], [40, 60, 160]).astype(np.uint8)
    many = {"segments": "many", "eigenvectors": 3}
    for chosen in ({}, {"colour_weight": 0.0}, {**many, "eigenvectors": 2, "clusters": 2}, {**many, "clusters": "eigengap"}):
        prior = DeepSpectral(DeepSpectralConfig(**chosen), Context(listener=Silence()))
        found = prior.group(patches_of(features.astype(np.float32), colours))
        assert found.masks.tolist() == [truth.tolist()]
        assert 0.7 < found.scores[0] <= 1


def test_colours_alone_can_find_an_object():
    truth = np.zeros((12, 16), bool)
    truth[3:8, 5:11] = True
    features = np.ones((192, 4), np.float32) + 0.3 * np.random.default_rng(1).normal(size=(192, 4)).astype(np.float32)
    colours = np.where(truth[..., None], [200, 40, 40], [40, 60, 160]).astype(np.uint8)
    weights = feature_affinity(torch.from_numpy(features)) + 1000 * colour_affinity(colours, 20).toarray()
    _, vectors = literal_spectrum(weights, 2)
    assert smaller_side(vectors[:, 1]).reshape(12, 16).tolist() == truth.tolist()


def test_features_that_are_all_equal_hold_no_object():
    colours = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    for chosen in ({}, {"colour_weight": 0.0}, {"segments": "many"}, {"crf": True}):
        prior = DeepSpectral(DeepSpectralConfig(**chosen), Context(listener=Silence()))
        assert len(prior.group(patches_of(np.ones((42, 5), np.float32), colours)).masks) == 0
        assert len(prior.group(patches_of(np.zeros((42, 5), np.float32), colours)).masks) == 0


def test_patches_without_features_are_like_themselves_alone():
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [4.0, 3.0], [-3.0, -4.0]])
    assert feature_affinity(features).tolist() == pytest.approx(
        np.array([[1, 0, 0, 0], [0, 1, 0.96, 0], [0, 0.96, 1, 0], [0, 0, 0, 1]])
    )


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_eigenvalues_below_the_largest_gap(steps):
    values = np.cumsum([0.0, *steps])
    count = below_the_largest_gap(values)
    assert count >= 2
    gaps = np.diff(values)
    if len(gaps) > 1:
        assert gaps[count - 1] == gaps[1:].max()


@given(seed=st.integers(0, 1000), rows=st.integers(1, 6), columns=st.integers(1, 6))
def test_background_has_most_of_the_border(seed, rows, columns):
    labels = np.random.default_rng(seed).integers(0, 4, (rows, columns))
    swapped = background_first(labels)
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    background = max(range(4), key=lambda label: (border == label).sum())
    assert (swapped == 0).tolist() == (labels == background).tolist()
    for label in range(1, 4):
        mask = swapped == label
        assert len(np.unique(labels[mask])) <= 1


def test_k_means_gives_every_point_to_the_nearest_mean_and_not_more_clusters_than_points():
    points = np.random.default_rng(0).normal(size=(200, 5))
    labels = k_means(points, 7)
    means = np.array([points[labels == label].mean(axis=0) for label in range(7)])
    assert (((points[:, None] - means) ** 2).sum(axis=2).argmin(axis=1) == labels).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sorted(set(k_means(points[:3].repeat(4, axis=0), 7).tolist())) == [0, 1, 2]


@given(seed=st.integers(0, 1000), share=st.floats(0, 1))
def test_contrast_is_that_of_all_pairs(seed, share):
    random = np.random.default_rng(seed)
    alike = literal_affinity(random.normal(size=(20, 4)))
    mask = random.random(20) < share
    assert contrast(alike.astype(np.float32), mask.astype(np.float64)) == pytest.approx(literal_contrast(alike, mask), abs=1e-5)


def literal_crf(hard: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Mean field with every pair of pixels: kernels (w, s) = (3, 3 px) and (10, 80 px and 13 levels), 5 updates."""
    height, width = hard.shape
    y, x = np.mgrid[:height, :width].reshape(2, -1).astype(float)
    place = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    colour = sum((channel[:, None] - channel) ** 2 for channel in pixels.reshape(-1, 3).T.astype(float))
    kernel = 0.0
    for weight, part in ((3, np.exp(-place / 18)), (10, np.exp(-place / (2 * 80**2) - colour / (2 * 13**2)))):
        scale = 1 / np.sqrt(part.sum(axis=1))
        kernel = kernel + weight * scale[:, None] * part * scale
    energies = -np.log(np.where(hard.ravel()[:, None] == np.arange(hard.max() + 1), 0.99, 0.01))
    marginals = np.exp(-energies)
    for _ in range(6):
        marginals /= marginals.sum(axis=1, keepdims=True)
        before, marginals = marginals, np.exp(kernel @ marginals - energies)
    return before.argmax(axis=1).reshape(hard.shape)


def test_crf_is_mean_field_over_all_pairs_of_pixels():
    random = np.random.default_rng(3)
    truth = np.zeros((38, 45), int)
    truth[9:27, 13:31] = 1
    truth[20:35, 33:42] = 2
    pixels = np.array([[40, 60, 90], [180, 60, 60], [60, 170, 80]])[truth] + random.normal(0, 5, (38, 45, 3))
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    cells = np.pad(truth, ((0, 2), (0, 3)), mode="edge")[4::8, 4::8]
    found = refined(cells, pixels, 8)
    hard = np.kron(cells, np.ones((8, 8), int))[:38, :45]
    assert (found == literal_crf(hard, pixels)).mean() > 0.99  # the lattice approximates the kernel
    assert (found == truth).mean() > 0.97 > (hard == truth).mean()
    assert refined(np.zeros((5, 6), int), pixels, 8).shape == (38, 45)


def test_crf_masks_are_of_pixels_and_keep_their_meaning():
    pixels = np.full((96, 128, 3), 60, np.uint8)
    pixels[21:70, 35:90] = (220, 80, 60)
    (plain,) = prior_of(short_side=96).mine(images_of([pixels]))
    (fine,) = prior_of(short_side=96, crf=True).mine(images_of([pixels]))
    truth = np.zeros((96, 128), bool)
    truth[21:70, 35:90] = True

    def overlap(found) -> float:
        return (found.mask(0) & truth).sum() / (found.mask(0) | truth).sum()

    assert overlap(fine) > max(0.95, overlap(plain))
    assert fine.scores[0] == pytest.approx(plain.scores[0], abs=0.2)


def test_segments_are_labels_and_their_largest_parts():
    labels = np.array([[1, 0, 1, 1], [0, 0, 2, 0], [2, 2, 0, 1]])
    assert [mask.tolist() for mask in segments(labels, "all")] == [(labels == 1).tolist(), (labels == 2).tolist()]
    largest = list(segments(labels, "largest"))
    assert np.argwhere(largest[0]).tolist() == [[0, 2], [0, 3]]
    assert np.argwhere(largest[1]).tolist() == [[1, 2], [2, 0], [2, 1]]  # 8-connected


ODD = {
    "one pixel": np.full((1, 1, 3), 9, np.uint8),
    "one row": np.random.default_rng(0).integers(0, 256, (1, 40, 3), dtype=np.uint8),
    "one column": np.random.default_rng(1).integers(0, 256, (50, 1, 3), dtype=np.uint8),
    "long": np.random.default_rng(2).integers(0, 256, (6, 400, 3), dtype=np.uint8),
    "one colour": np.full((40, 60, 3), 127, np.uint8),
    "grey": np.random.default_rng(3).integers(0, 256, (40, 60, 1), dtype=np.uint8).repeat(3, axis=2),
    "two halves": np.repeat([[[0, 0, 0], [255, 255, 255]]], 30, axis=1).repeat(40, axis=0).astype(np.uint8),
}


@pytest.mark.parametrize(
    "chosen",
    [{}, {"segments": "many"}, {"crf": True}, {"segments": "many", "crf": True}, {"padding": "zeros", "crf": True}],
    ids=str,
)
def test_odd_images(chosen):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = list(prior_of(short_side=16, **chosen).mine(images_of(list(ODD.values()))))
    for (name, pixels), one in zip(ODD.items(), found, strict=True):
        assert one.size == pixels.shape[:2]
        assert (one.areas() > 0).all()
        assert ((one.scores > 0) & (one.scores <= 1)).all()
        if name in ("one pixel", "one colour"):
            assert len(one) == 0


def test_neither_batch_size_nor_company_matters():
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, ((64, 96), (96, 64))[i % 2] + (3,), dtype=np.uint8) for i in range(5)]
    for chosen in ({}, {"segments": "many"}):
        together = list(prior_of(short_side=64, batch=3, **chosen).mine(images_of(arrays)))
        alone = [next(prior_of(short_side=64, batch=1, **chosen).mine(images_of([array]))) for array in arrays]
        assert [one.masks for one in together] == [one.masks for one in alone]
        for one, other in zip(together, alone, strict=True):
            assert one.scores.tolist() == pytest.approx(other.scores.tolist(), abs=1e-5)


def test_min_score_leaves_masks_out():
    random = np.random.default_rng(0)
    array = random.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    (every,) = prior_of(short_side=64, segments="many").mine(images_of([array]))
    (some,) = prior_of(short_side=64, segments="many", min_score=float(np.median(every.scores))).mine(images_of([array]))
    assert 0 < len(some) < len(every)


def test_large_images_are_shrunk_to_so_many_patches():
    array = np.full((90, 130, 3), 60, np.uint8)
    array[21:60, 35:90] = (220, 80, 60)
    prior = prior_of(short_side=None, max_patches=50)
    height, width = prior.input_size((90, 130))
    assert -(-height // 8) * -(-width // 8) <= 50
    (found,) = prior.mine(images_of([array]))
    assert found.size == (90, 130)
    assert len(found) == 1
