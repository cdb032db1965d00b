"""TokenCut against a transcription with a dense generalised eigensolver."""

from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.linalg import eigh

from mdp_core.api import Context, ImageRecord, Images
from mdp_core.settings import step_settings
from mdp_dino.ncut import threshold_graph, unit
from mdp_dino.settings.tokencut import TokenCutConfig
from mdp_dino.tokencut import TokenCut, object_patches, sharpened

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
TINY = {"weights": "builtin:tiny", "centre_keys": True}


def literal_mask(features: np.ndarray, grid: tuple[int, int], tau: float = 0.2, eps: float = 1e-5):
    """Returns the mask, the side, and the smallest distance of a decision to its tie."""
    patches = len(features)
    normal = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = normal @ normal.T
    graph = np.full((patches, patches), eps)
    for i in range(patches):
        for j in range(patches):
            if cosines[i, j] > tau:
                graph[i, j] = 1
    degrees = np.diag(graph.sum(axis=1))
    values, vectors = eigh(degrees - graph, degrees)
    vector = vectors[:, 1]
    average = sum(vector) / patches
    side = vector > average
    largest = max(abs(vector))
    seed = next(i for i in range(patches) if abs(vector[i]) >= largest * (1 - 1e-9))
    gaps = [abs(cosines - tau).min(), abs(vector - average).min() / largest, values[2] - values[1]]
    gaps += [largest / abs(other) - 1 for other in vector if np.sign(other) != np.sign(vector[seed]) and other]
    rest = [abs(other) for other in vector if abs(other) < largest * (1 - 1e-9)]
    gaps += [1 - max(rest) / largest] if rest else []
    if not side[seed]:
        side = ~side
    grid_side = side.reshape(grid)
    return flooded(grid_side, divmod(seed, grid[1])), grid_side, min(gaps)


def flooded(mask: np.ndarray, source: tuple[int, int]) -> np.ndarray:
    found = np.zeros_like(mask)
    queue = deque([source])
    while queue:
        y, x = queue.popleft()
        if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and not found[y, x]:
            found[y, x] = True
            queue += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    return found


def literal_mine(prior: TokenCut, pixels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """One image through the network by hand, the literal cut, then pixels one by one."""
    height, width = pixels.shape[:2]
    small = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.BILINEAR)) if size != (height, width) else pixels
    padded = np.zeros((size[0] + -size[0] % 8, size[1] + -size[1] % 8, 3))
    padded[: size[0], : size[1]] = (small / 255 - MEAN) / STD
    block = prior.reader.read(torch.from_numpy(padded.transpose(2, 0, 1)[None]).float(), -1, ("k",))
    keys = block.values["k"].patches[0].double().numpy()
    grid, _, gap = literal_mask(keys - keys.mean(axis=0), (padded.shape[0] // 8, padded.shape[1] // 8))
    out = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            out[y, x] = grid[int((y + 0.5) * size[0] / height) // 8, int((x + 0.5) * size[1] / width) // 8]
    return out, gap


def images_of(arrays: list[np.ndarray]) -> Images:
    records = [ImageRecord(str(index), *array.shape[:2]) for index, array in enumerate(arrays)]
    return Images(records, lambda record: arrays[int(record.id)])


def blobs(height: int, width: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    pixels = random.integers(90, 120, (height, width, 3), dtype=np.uint8)
    y, x = np.ogrid[:height, :width]
    inside = (y - height * random.uniform(0.35, 0.65)) ** 2 + (x - width * random.uniform(0.35, 0.65)) ** 2
    pixels[inside < (0.25 * min(height, width)) ** 2] = random.integers(0, 256, 3)
    return pixels


def mine(arrays: list[np.ndarray], **given):
    return list(TokenCut(TokenCutConfig(**{**TINY, **given}), Context()).mine(images_of(arrays)))


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    grid=st.tuples(st.integers(1, 14), st.integers(3, 14)),
    dim=st.integers(2, 40),
    tau=st.floats(0, 0.5),
    shift=st.floats(0, 1),
)
def test_random_features_equal_the_literal_method(seed, grid, dim, tau, shift):
    features = np.random.default_rng(seed).normal(size=(grid[0] * grid[1], dim)) + shift
    wanted, side, gap = literal_mask(features, grid, tau)
    assume(gap > 1e-6)
    graph = threshold_graph(unit(torch.from_numpy(features)), tau, 1e-5)
    assert (object_patches(graph, grid) == wanted).all()
    assert (object_patches(graph, grid, component="all") == side).all()


@pytest.mark.parametrize("objects", [1, 2])
def test_large_random_features_go_through_lanczos(objects):
    for seed in range(5):
        random = np.random.default_rng(seed)
        features = random.normal(size=(18 * 20, 24)) + 0.3
        features[: 60 * objects] += 2 * random.normal(size=24)
        features = features[random.permutation(len(features))] if seed % 2 else features
        wanted, _, gap = literal_mask(features, (18, 20))
        assert gap > 1e-7
        assert (object_patches(threshold_graph(unit(torch.from_numpy(features)), 0.2, 1e-5), (18, 20)) == wanted).all()


def test_photographs_equal_the_literal_method(photographs):
    arrays = photographs(10)
    prior = TokenCut(TokenCutConfig(short_side=112, **TINY), Context())
    for pixels, found in zip(arrays, prior.mine(images_of(arrays)), strict=True):
        size = prior.input_size(pixels.shape[:2])
        wanted, gap = literal_mine(prior, pixels, size)
        assert gap > 1e-7
        assert (found.mask(0) == wanted).all()
        assert found.labels.tolist() == [-1]


def test_an_image_is_seen_at_its_own_size_and_padded_with_zeros():
    arrays = [blobs(70, 101, 0), blobs(96, 64, 1)]
    prior = TokenCut(TokenCutConfig(**TINY), Context())
    for pixels, found in zip(arrays, prior.mine(images_of(arrays)), strict=True):
        wanted, gap = literal_mine(prior, pixels, pixels.shape[:2])
        assert gap > 1e-7
        assert (found.mask(0) == wanted).all()


def test_an_image_of_too_many_patches_is_shrunk():
    prior = TokenCut(TokenCutConfig(max_patches=100, **TINY), Context())
    assert prior.input_size((80, 80)) == (80, 80)
    height, width = prior.input_size((200, 400))
    assert -(-height // 8) * -(-width // 8) <= 100
    (found,) = prior.mine(images_of([blobs(200, 400, 3)]))
    assert found.size == (200, 400)


ODD = {
    "one colour": np.full((64, 48, 3), 90, np.uint8),
    "one pixel": np.zeros((1, 1, 3), np.uint8),
    "one row": np.random.default_rng(0).integers(0, 256, (1, 90, 3), dtype=np.uint8),
    "a strip": np.random.default_rng(1).integers(0, 256, (400, 3, 3), dtype=np.uint8),
    "grey": np.repeat(np.linspace(0, 255, 90).astype(np.uint8)[None, :, None], 3, axis=2).repeat(40, axis=0),
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("given_settings", [{}, {"short_side": 24}, {"short_side": 24, "bilateral_solver": True}])
def test_odd_images(centre, given_settings):
    found = dict(zip(ODD, mine(list(ODD.values()), centre_keys=centre, **given_settings), strict=True))
    assert len(found["one colour"]) == len(found["one pixel"]) == 0
    for name, pixels in ODD.items():
        assert found[name].size == pixels.shape[:2]
        assert (found[name].areas() > 0).all()
        assert ((found[name].scores >= 0) & (found[name].scores <= 1)).all()


def test_alike_patches_and_lone_ones_have_no_object():
    same = threshold_graph(unit(torch.ones(12, 4)), 0.2, 1e-5)
    lone = threshold_graph(unit(torch.eye(12)), 0.2, 1e-5)
    zero = threshold_graph(unit(torch.zeros(12, 4)), 0.2, 1e-5)
    for graph in (same, lone, zero, same[:1, :1], same[:2, :2], lone[:2, :2]):
        assert object_patches(graph, (1, len(graph))) is None


def test_scores_tell_an_object_from_noise():
    random = np.random.default_rng(0)
    objects = [found.scores[0] for found in mine([blobs(96, 128, seed) for seed in range(6)])]
    noise = [found.scores[0] for found in mine([random.integers(0, 256, (96, 128, 3), dtype=np.uint8) for _ in range(6)])]
    assert np.mean(objects) > np.mean(noise) + 0.2
    assert [len(found) for found in mine([blobs(96, 128, 0)], min_score=1.0)] == [0]


def test_neither_batch_size_nor_company_matters():
    arrays = [blobs(*((64, 96), (96, 64), (64, 80))[seed % 3], seed) for seed in range(7)]
    alone = [mine([array], batch=1)[0] for array in arrays]
    for batch in (1, 3, 8):
        together = mine(arrays, batch=batch)
        assert [one.masks for one in together] == [one.masks for one in alone]
        assert [one.scores.tobytes() for one in together] == [one.scores.tobytes() for one in alone]


def test_the_bilateral_solver_moves_the_border_to_the_images():
    pixels = np.full((80, 96, 3), 230, np.uint8)
    truth = np.zeros((80, 96), bool)
    truth[21:59, 19:77] = True
    pixels[truth] = (30, 60, 120)
    coarse = np.zeros((10, 12), bool)
    coarse[3:7, 2:9] = True  # 24..55, 16..71: beyond the object on one side, short of it on the others
    fine = sharpened(coarse, pixels, 8)

    def overlap(mask):
        return (mask & truth).sum() / (mask | truth).sum()

    assert overlap(fine) > 0.97 > overlap(coarse.repeat(8, 0).repeat(8, 1))


def test_a_mask_that_the_bilateral_solver_loses_is_kept():
    mask = np.zeros((12, 12), bool)
    mask[4, 4] = True
    fine = sharpened(mask, np.full((90, 93, 3), 128, np.uint8), 8)
    assert (fine == mask.repeat(8, 0).repeat(8, 1)[:90, :93]).all()


def test_the_bilateral_solver_through_the_class():
    (coarse,), (fine,) = mine([blobs(96, 128, 1)]), mine([blobs(96, 128, 1)], bilateral_solver=True)
    assert fine.masks != coarse.masks
    assert fine.scores.tobytes() == coarse.scores.tobytes()
    both, either = (fine.mask(0) & coarse.mask(0)).sum(), (fine.mask(0) | coarse.mask(0)).sum()
    assert 0.5 <= both / either < 1


@pytest.mark.parametrize("name", ["tau", "eps", "component", "bilateral_solver", "max_patches"])
def test_settings_are_part_of_the_key(name):
    other = {"tau": 0.3, "eps": 1e-4, "component": "all", "bilateral_solver": True, "max_patches": 50}[name]
    keys = [step_settings(TokenCutConfig(**given), "mine", ["mine"]) for given in ({}, {name: other})]
    assert keys[0] != keys[1]
