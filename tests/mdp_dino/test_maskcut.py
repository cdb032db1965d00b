"""MaskCut against a transcription that masks features, builds each graph anew and solves it densely."""

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
from mdp_crf.mean_field import bilateral, gaussian, mean_field
from mdp_dino import maskcut, squares
from mdp_dino.maskcut import MaskCut, object_parts, object_patches
from mdp_dino.ncut import threshold_graph, unit
from mdp_dino.settings.maskcut import MaskCutConfig
from mdp_dino.squares import overlap, resized, sharpened

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
TINY = {"weights": "builtin:tiny", "centre_keys": True}


def literal_cut(features: np.ndarray, grid: tuple[int, int], tau: float, eps: float):
    """Returns the mask of one cut, and the smallest distance of a decision to its tie."""
    patches = len(features)
    lengths = np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    cosines = (features / lengths) @ (features / lengths).T
    graph = np.full((patches, patches), eps)
    for i in range(patches):
        for j in range(patches):
            if cosines[i, j] > tau:
                graph[i, j] = 1
    degrees = np.diag(graph.sum(axis=1))
    values, vectors = eigh(degrees - graph, degrees)
    vector, largest = vectors[:, 1], abs(vectors[:, 1]).max()
    seed = next(i for i in range(patches) if abs(vector[i]) >= largest * (1 - 1e-9))
    vector = vector * np.sign(vector[seed])  # the sign is arbitrary, and the corners' rule depends on it: the peak is positive
    side = vector > sum(vector) / patches
    corners = sum(bool(side.reshape(grid)[y, x]) for y in (0, -1) for x in (0, -1))
    if corners >= 3 or not side[seed]:
        side, vector = ~side, -vector
    top = vector.max()
    seed = next(i for i in range(patches) if vector[i] >= top - 1e-9 * largest)
    gaps = [abs(np.abs(cosines) - tau)[cosines != 0].min(initial=1), values[2] - values[1]]
    gaps += [abs(vector - vector.mean()).min() / largest, 1 - max(abs(vector[vector < 0]).max(initial=0), 0) / largest]
    if corners >= 3:
        gaps[-1] = abs(abs(vector.min()) / largest - abs(top) / largest)
    rest = [other for other in vector if other < top - 1e-9 * largest]
    gaps += [(top - max(rest)) / largest] if rest else []
    return flooded(side.reshape(grid), divmod(seed, grid[1])), min(abs(gap) for gap in gaps)


def literal_parts(features: np.ndarray, grid: tuple[int, int], tau: float = 0.15, eps: float = 1e-5, count: int = 3):
    """All cuts: returns masks without what earlier ones hold, and the smallest gap."""
    taken, before = np.zeros(grid, bool), np.zeros(grid, bool)
    found, gaps = [], []
    for number in range(count):
        left = features.copy()
        for i in range(len(features)):
            if taken[divmod(i, grid[1])]:
                left[i] = 0
        mask, gap = literal_cut(left, grid, tau, eps)
        gaps.append(gap)
        if number > 0:
            same = (mask & before).sum() / (mask | before).sum()
            gaps.append(abs(same - 0.5))
            if same > 0.5 or mask.sum() / mask.size <= 0.01:
                continue  # nothing is taken, and the next cut is the same one
        found.append(mask & ~taken)
        taken |= mask
        before = mask
    return [mask for mask in found if mask.any()], min(gaps)


def flooded(mask: np.ndarray, source: tuple[int, int]) -> np.ndarray:
    found = np.zeros_like(mask)
    queue = deque([source])
    while queue:
        y, x = queue.popleft()
        if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and not found[y, x]:
            found[y, x] = True
            queue += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    return found


def filled(mask: np.ndarray) -> np.ndarray:
    """Everything that the outside does not reach."""
    outside = np.pad(~mask, 1, constant_values=True)
    return ~flooded(outside, (0, 0))[1:-1, 1:-1]


def literal_crf(mask: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    scores = np.stack([1.0 - mask.ravel(), 1.0 * mask.ravel()], axis=1)
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    kernels = [gaussian(*mask.shape, 7, 3), bilateral(pixels, 10, 50, 5)]
    marginals = mean_field(-np.log(probabilities).astype(np.float32), kernels, 10)
    return (marginals[:, 1] > marginals[:, 0]).reshape(mask.shape)


def literal_mine(prior: MaskCut, pixels: np.ndarray, side: int, crf: bool) -> tuple[list[np.ndarray], float]:
    """One image through the network by hand, the literal cuts, the rules, and back to its size."""
    small = np.asarray(Image.fromarray(pixels).resize((side, side), Image.LANCZOS))
    tensor = torch.from_numpy(((small / 255 - MEAN) / STD).transpose(2, 0, 1)[None]).float()
    keys = prior.reader.read(tensor, -1, ("k",)).values["k"].patches[0].double().numpy()
    parts, gap = literal_parts(keys - keys.mean(axis=0), (side // 8, side // 8))
    masks = []
    for part in parts:
        raw = part.repeat(8, 0).repeat(8, 1)
        fine = filled(literal_crf(raw, small) if crf else raw)
        if (fine & raw).sum() / (fine | raw).sum() < 0.5:
            continue
        large = np.asarray(Image.fromarray(np.uint8(fine * 255)).resize(pixels.shape[1::-1], Image.BICUBIC))
        masks.append(large > 127.5)
    return masks, gap


def images_of(arrays: list[np.ndarray]) -> Images:
    records = [ImageRecord(str(index), *array.shape[:2]) for index, array in enumerate(arrays)]
    return Images(records, lambda record: arrays[int(record.id)])


def blobs(height: int, width: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    pixels = random.integers(90, 120, (height, width, 3), dtype=np.uint8)
    y, x = np.ogrid[:height, :width]
    for _ in range(2):
        inside = (y - height * random.uniform(0.2, 0.8)) ** 2 + (x - width * random.uniform(0.2, 0.8)) ** 2
        pixels[inside < (0.2 * min(height, width)) ** 2] = random.integers(0, 256, 3)
    return pixels


def mine(arrays: list[np.ndarray], **given):
    return list(MaskCut(MaskCutConfig(**{**TINY, "square": 96, **given}), Context()).mine(images_of(arrays)))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    grid=st.tuples(st.integers(2, 11), st.integers(2, 11)),
    dim=st.integers(2, 40),
    tau=st.floats(0, 0.5),
    count=st.integers(1, 5),
)
def test_random_features_equal_the_literal_method(seed, grid, dim, tau, count):
    features = np.random.default_rng(seed).normal(size=(grid[0] * grid[1], dim)) + 0.3
    wanted, gap = literal_parts(features, grid, tau, count=count)
    assume(gap > 1e-6)
    graph = threshold_graph(unit(torch.from_numpy(features)), tau, 1e-5)
    parts = object_parts(graph, grid, eps=1e-5, count=count)
    assert [part.mask.tolist() for part in parts] == [mask.tolist() for mask in wanted]
    assert all(0 <= part.score <= 1 for part in parts)


def three_things(seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Features (324, 16) of three rectangles on a ground, and the rectangles."""
    random = np.random.default_rng(seed)
    names = np.zeros((18, 18), int)
    names[2:9, 2:8], names[3:8, 11:16], names[12:16, 6:12] = 1, 2, 3
    kinds = np.linalg.qr(random.normal(size=(16, 16)))[0][:4]
    features = kinds[names.ravel()] + 0.02 * random.normal(size=(324, 16))
    return features, [names == number for number in (1, 2, 3)]


def test_separate_things_are_found_one_after_the_other():
    for seed in range(4):
        features, things = three_things(seed)
        wanted, _ = literal_parts(features, (18, 18))
        graph = threshold_graph(unit(torch.from_numpy(features)), 0.15, 1e-5)
        parts = object_parts(graph.copy(), (18, 18), eps=1e-5, count=3)
        assert [part.mask.tolist() for part in parts] == [mask.tolist() for mask in wanted]
        assert sum(any(overlap(part.mask, thing) > 0.9 for part in parts) for thing in things) >= 2
        assert all(part.score > 0.9 for part in parts)
        (first,) = object_parts(graph, (18, 18), eps=1e-5, count=1)
        assert (first.mask == parts[0].mask).all()


@pytest.mark.parametrize("crf", [False, True])
def test_photographs_equal_the_literal_method(crf, photographs):
    arrays = photographs(10)
    prior = MaskCut(MaskCutConfig(square=112, crf=crf, **TINY), Context())
    several = 0
    for pixels, found in zip(arrays, prior.mine(images_of(arrays)), strict=True):
        wanted, gap = literal_mine(prior, pixels, 112, crf)
        assert gap > 1e-8
        assert len(found) == len(wanted)
        assert all((one == other).all() for one, other in zip(found.to_masks(), wanted, strict=True))
        several += len(found) > 1
    assert several > 0


def test_a_side_with_three_corners_is_turned_round():
    """The peak lies in a frame round the image, since what it frames has more links."""
    names = np.ones((8, 8), int)
    names[1:7, 1:7] = 0
    names[7, 7] = 0
    turned = threshold_graph(unit(torch.eye(2)[torch.from_numpy(names.ravel())]), 0.15, 1e-5)
    mask = object_patches(turned, (8, 8))
    assert mask[1:7, 1:7].all()
    assert not mask[0].any()


def test_a_mask_takes_its_features_from_the_next_cut():
    features, _ = three_things(0)
    graph = threshold_graph(unit(torch.from_numpy(features)), 0.15, 1e-5)
    mask = object_patches(graph, (18, 18))
    left = np.where(mask.ravel()[:, None], 0, features)
    object_parts(graph, (18, 18), eps=1e-5, count=1)
    assert (graph == threshold_graph(unit(torch.from_numpy(left)), 0.15, 1e-5)).all()


def test_after_a_cut_that_finds_nothing_new_there_is_no_other(monkeypatch):
    calls = []
    first, small = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    first[:10], small[:2, 10:12] = True, True  # a hundredth
    same = first.copy()
    same[9] = False
    for answers, wanted, asked in (([first, same, small], 1, 2), ([first, small, same], 1, 2), ([small, first, same], 2, 3)):
        queue = iter(answers)
        monkeypatch.setattr(maskcut, "object_patches", lambda *_, queue=queue: (calls.append(1), next(queue))[1])
        calls.clear()
        parts = object_parts(np.ones((400, 400)), (20, 20), eps=1e-5, count=3)
        assert (len(parts), len(calls)) == (wanted, asked)


def test_masks_share_no_patch_and_what_is_left_of_one_may_be_nothing(monkeypatch):
    large, part, beyond = np.zeros((20, 20), bool), np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    large[:10], part[:3], beyond[:, 5:10] = True, True, True
    queue = iter([large, part, beyond])
    monkeypatch.setattr(maskcut, "object_patches", lambda *_: next(queue))
    parts = object_parts(np.ones((400, 400)), (20, 20), eps=1e-5, count=3)
    assert [one.mask.tolist() for one in parts] == [large.tolist(), (beyond & ~large).tolist()]


def test_the_crf_moves_the_border_to_the_images():
    pixels = np.full((64, 64, 3), 230, np.uint8)
    truth = np.zeros((64, 64), bool)
    truth[13:43, 19:53] = True
    pixels[truth] = (30, 60, 120)
    coarse = np.zeros((64, 64), bool)
    coarse[16:48, 16:48] = True
    (fine,) = sharpened([coarse], pixels)
    assert overlap(fine, truth) > 0.97 > overlap(coarse, truth)
    assert sharpened([], pixels) == []


def test_masks_that_the_crf_changes_beyond_recognition_are_dropped(monkeypatch):
    def shrinks(masks, pixels):
        return [mask & (np.arange(mask.shape[1]) < share * mask.shape[1]) for mask, share in zip(masks, (1, 0, 1), strict=True)]

    arrays = [blobs(80, 110, seed) for seed in range(8)]
    plain = mine(arrays, crf=False)
    index = next(i for i, found in enumerate(plain) if len(found) == 3)
    monkeypatch.setattr(squares, "sharpened", shrinks)
    (found,) = mine(arrays[index : index + 1])
    assert len(found) == 2
    assert found.scores.tolist() == plain[index].scores[[0, 2]].tolist()
    monkeypatch.setattr(squares, "sharpened", lambda masks, _pixels: [np.zeros_like(mask) for mask in masks])
    assert len(mine(arrays[index : index + 1])[0]) == 0


def test_half_of_a_pixel_counts():
    mask = np.zeros((40, 40), bool)
    mask[:, 20:] = True
    assert resized(mask, (40, 40)).tolist() == mask.tolist()
    assert (resized(mask, (20, 10)) == (np.arange(10) >= 5)).all()


def test_squares_and_shapes():
    prior = MaskCut(MaskCutConfig(**TINY), Context())
    assert prior.input_size((375, 500)) == (480, 480)
    kept = MaskCut(MaskCutConfig(square=None, short_side=80, **TINY), Context())
    assert kept.input_size((375, 500)) == (80, 106)
    few = MaskCut(MaskCutConfig(max_patches=100, **TINY), Context())
    assert few.input_size((375, 500)) == (80, 80)
    for found in mine([blobs(75, 100, 0)], square=None, short_side=77) + mine([blobs(75, 100, 0)], square=77):
        assert found.size == (75, 100)
        assert len(found) >= 1


ODD = {
    "one colour": np.full((64, 48, 3), 90, np.uint8),
    "one pixel": np.zeros((1, 1, 3), np.uint8),
    "one row": np.random.default_rng(0).integers(0, 256, (1, 90, 3), dtype=np.uint8),
    "a strip": np.random.default_rng(1).integers(0, 256, (400, 3, 3), dtype=np.uint8),
    "grey": np.repeat(np.linspace(0, 255, 90).astype(np.uint8)[None, :, None], 3, axis=2).repeat(40, axis=0),
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("given_settings", [{"square": 64}, {"square": 64, "crf": False}, {"square": None, "short_side": 24}])
def test_odd_images(centre, given_settings):
    found = dict(zip(ODD, mine(list(ODD.values()), centre_keys=centre, **given_settings), strict=True))
    assert len(found["one colour"]) == len(found["one pixel"]) == 0
    for name, pixels in ODD.items():
        assert found[name].size == pixels.shape[:2]
        assert (found[name].areas() > 0).all()
        assert ((found[name].scores >= 0) & (found[name].scores <= 1)).all()


def test_neither_batch_size_nor_company_matters():
    arrays = [blobs(*((64, 96), (96, 64), (64, 80))[seed % 3], seed) for seed in range(6)]
    alone = [mine([array], batch=1)[0] for array in arrays]
    for batch in (1, 4):
        together = mine(arrays, batch=batch)
        assert [one.masks for one in together] == [one.masks for one in alone]
        assert [one.scores.tobytes() for one in together] == [one.scores.tobytes() for one in alone]


@pytest.mark.parametrize("name", ["tau", "eps", "square", "masks", "crf", "max_patches"])
def test_settings_are_part_of_the_key(name):
    other = {"tau": 0.3, "eps": 1e-4, "square": 240, "masks": 2, "crf": False, "max_patches": 50}[name]
    keys = [step_settings(MaskCutConfig(**given), "mine", ["mine"]) for given in ({}, {name: other})]
    assert keys[0] != keys[1]
