"""lost against the paper's rules, transcribed with the N × N matrix."""

import warnings
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from mdp_backbones.random_vit import random_vit
from mdp_core.api import Context, ImageRecord, Images, Instances, Silence
from mdp_core.settings import step_settings
from mdp_dino.lost import Lost, degrees, seeded
from mdp_dino.patches import Patches
from mdp_dino.settings.lost import LostConfig

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def literal_lost(f: np.ndarray, grid: tuple[int, int], expand: int) -> tuple[np.ndarray, float, float]:
    """f (N, d) in float64: the mask (rows, columns), the score, and the smallest distance of any sign to 0."""
    patches = len(f)
    a = np.zeros((patches, patches))
    for p in range(patches):
        for q in range(patches):
            a[p, q] = (f[p] * f[q]).sum()
    degree = [sum(1 for q in range(patches) if q != p and a[p, q] > 0) for p in range(patches)]
    lowest = sorted(range(patches), key=lambda p: (degree[p], p))
    seed = lowest[0]
    similar = [p for p in lowest[:expand] if a[seed, p] > 0]
    total = np.zeros(patches)
    for s in similar:
        total += a[s]
    gap = min(np.abs(a).min(), np.abs(total).min() / max(1, len(similar))) / max(np.abs(a).max(), 1e-300)
    mask = np.zeros(grid, bool)
    queue = deque([divmod(seed, grid[1])] if total[seed] > 0 else [])
    while queue:
        y, x = queue.popleft()
        if 0 <= y < grid[0] and 0 <= x < grid[1] and total[y * grid[1] + x] > 0 and not mask[y, x]:
            mask[y, x] = True
            queue += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    if degree[seed] == patches - 1:
        return np.zeros(grid, bool), 0.0, gap
    return mask, 1 - degree[seed] / (patches - 1), gap


def prior_of(**given) -> Lost:
    return Lost(LostConfig(**{"weights": "builtin:random", "centre_keys": True, **given}), Context(listener=Silence()))


def images_of(arrays: list[np.ndarray]) -> Images:
    records = [ImageRecord(str(i), *array.shape[:2]) for i, array in enumerate(arrays)]
    return Images(records, lambda record: arrays[int(record.id)])


def mine(arrays: list[np.ndarray], **given) -> list[Instances]:
    return list(prior_of(**given).mine(images_of(arrays)))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(1, 12),
    grid=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    expand=st.integers(1, 80),
    shift=st.floats(-1, 1),
    centre=st.booleans(),
)
def test_equals_the_paper_with_the_full_matrix(*, seed, dim, grid, expand, shift, centre):
    random = np.random.default_rng(seed)
    features = random.normal(size=(grid[0] * grid[1], dim)) + shift
    assume(not centre or len(features) > 1)
    pixels = noise(8 * grid[0], 8 * grid[1])
    prior = prior_of(centre_keys=centre, expand=expand)
    found = prior.group(Patches({"k": torch.from_numpy(features)}, {}, grid, 1, 8, pixels))
    mask, score, gap = literal_lost(features - features.mean(axis=0) if centre else features, grid, expand)
    assume(gap > 1e-12)  # exact zeros may fall on either side
    assert len(found.masks) == int(mask.any())
    for one in found.masks:
        assert one.tolist() == mask.tolist()
        assert found.scores.tolist() == [np.float32(score)]


@given(seed=st.integers(0, 1000), patches=st.integers(1, 60), block=st.integers(1, 4000))
def test_degrees_do_not_depend_on_the_blocks(seed, patches, block):
    features = torch.from_numpy(np.random.default_rng(seed).integers(-2, 3, (patches, 3))).float()
    alike = features @ features.T > 0
    wanted = [sum(bool(alike[p, q]) for q in range(patches) if q != p) for p in range(patches)]
    assert degrees(features, block).tolist() == wanted


def test_of_equal_degrees_the_first_patch_is_the_seed():
    features = torch.tensor([[1.0, 1, 0, 0], [-1, 0, 1, 0], [0, 1, 1, 1], [0, 0, -1, -1], [-1, 0, 0, -1]])
    degree = degrees(features)
    assert degree.tolist() == [1, 2, 2, 1, 2]
    found = seeded(features, degree, 100)
    assert (found.seed, found.friends) == (0, 1)
    assert seeded(features.flip(0), degree.flip(0), 100).seed == 1


def test_expansion_is_limited_to_the_patches_of_lowest_degree():
    random = np.random.default_rng(5)
    features = torch.from_numpy(random.normal(size=(64, 6)))
    degree = degrees(features)
    masks = [seeded(features, degree, expand).mask.tolist() for expand in (1, 20, 64)]
    assert masks[0] == (features @ features[int(degree.argmin())] > 0).tolist()
    assert len({str(mask) for mask in masks}) == 3


class LargestOutput(TorchDispatchMode):
    """Remembers the largest tensor that any operator made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.elements = max(self.elements, out.numel())
        return out


def test_no_matrix_of_patches_by_patches_is_made():
    features = torch.randn(6000, 8, generator=torch.Generator().manual_seed(0))
    with LargestOutput() as largest:
        degree = degrees.__wrapped__(features, 1 << 18)
        seeded.__wrapped__(features, degree, 100)
    assert 6000 < largest.elements <= 1 << 18


def literal_mine(pixels: np.ndarray, short_side: int | None, expand: int) -> tuple[np.ndarray, float, float]:
    """One image through the whole network with a hook, the paper's matrix, then pixels one by one."""
    height, width = pixels.shape[:2]
    side = short_side or min(height, width)
    size = [side if one == min(height, width) else int(side * one / min(height, width)) for one in (height, width)]
    small = np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.BILINEAR))
    padded = np.pad((small / 255 - MEAN) / STD, ((0, -size[0] % 8), (0, -size[1] % 8), (0, 0)))
    rows, columns = padded.shape[0] // 8, padded.shape[1] // 8
    model = random_vit().eval()
    positions = model.pos_embed[:, 1:].reshape(1, 16, 16, -1).permute(0, 3, 1, 2)
    positions = torch.nn.functional.interpolate(positions, size=(rows, columns), mode="bicubic", align_corners=False)
    model.pos_embed.data = torch.cat([model.pos_embed[:, :1], positions.flatten(2).transpose(1, 2)], dim=1)
    model.dynamic_img_size = False
    model.patch_embed.flatten, model.patch_embed.output_fmt = True, "NCHW"
    caught = {}
    model.blocks[-1].attn.qkv.register_forward_hook(lambda _m, _i, out: caught.update(qkv=out))
    with torch.no_grad():
        model(torch.from_numpy(padded.transpose(2, 0, 1)[None]).float())
    keys = caught["qkv"][0, 1:, 192:384].double().numpy()
    grid, score, gap = literal_lost(keys - keys.mean(axis=0), (rows, columns), expand)
    out = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            out[y, x] = grid[int((y + 0.5) * size[0] / height) // 8, int((x + 0.5) * size[1] / width) // 8]
    return out, score, gap


@pytest.mark.parametrize("expand", [30, 100])
def test_photographs_equal_the_literal_method(expand, photographs):
    arrays = photographs(10)
    mined, clear = mine(arrays, short_side=96, expand=expand), 0
    for pixels, found in zip(arrays, mined, strict=True):
        mask, score, gap = literal_mine(pixels, 96, expand)
        if gap > 1e-6:  # else one of some 23,000 signs is within float32's rounding of the features
            clear += 1
            assert (found.to_masks().any(axis=0) == mask).all()
            assert found.scores.tolist() == [np.float32(score)]
    assert clear >= 7


def test_images_are_seen_at_their_own_size_by_default(photographs):
    arrays = [pixels[:90, :125] for pixels in photographs(3)]
    for pixels, found in zip(arrays, mine(arrays), strict=True):
        mask, _, _ = literal_mine(pixels, None, 100)
        assert (found.to_masks().any(axis=0) == mask).all()


def test_the_defaults_are_the_published_ones():
    config = LostConfig()
    assert (config.short_side, config.padding, config.expand, config.facet) == (None, "zeros", 100, "k")
    assert step_settings(config, "mine", ["mine"]) != step_settings(LostConfig(expand=400), "mine", ["mine"])


def test_neither_batch_size_nor_company_matters():
    arrays = [noise(*((40, 56), (56, 40))[seed % 2], seed) for seed in range(7)]
    alone = [mine([array], batch=1)[0] for array in arrays]
    for batch in (1, 3, 8):
        together = mine(arrays, batch=batch)
        assert [one.masks for one in together] == [one.masks for one in alone]
        assert [one.scores.tolist() for one in together] == [one.scores.tolist() for one in alone]


@pytest.mark.parametrize("weights", ["builtin:tiny", "builtin:random"])
@pytest.mark.parametrize("short_side", [None, 32])
def test_odd_images(weights, short_side):
    arrays = [noise(1, 1), noise(1, 90), noise(90, 1), noise(3, 200), noise(9, 17), np.full((40, 50, 3), 7, np.uint8)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mined = mine(arrays, weights=weights, short_side=short_side)
    for pixels, found in zip(arrays, mined, strict=True):
        assert found.size == pixels.shape[:2]
        assert (found.areas() > 0).all()
        assert ((found.scores > 0) & (found.scores <= 1)).all()
    assert len(mined[0]) == len(mined[-1]) == 0  # one pixel, and one colour


def test_where_all_patches_are_friends_there_is_no_object():
    everywhere = Patches({"k": torch.rand(12, 5) + 0.1}, {}, (3, 4), 1, 8, noise(24, 32))
    assert len(prior_of(centre_keys=False).group(everywhere).masks) == 0
    zero = Patches({"k": torch.zeros(12, 5)}, {}, (3, 4), 1, 8, noise(24, 32))
    assert len(prior_of(centre_keys=False).group(zero).masks) == 0


def test_the_score_says_how_few_resemble_the_seed():
    features = torch.full((20, 2), 0.1)
    features[:, 1] = 1
    features[7] = torch.tensor([1.0, -0.05])  # dot products with the others: 0.1 - 0.05
    features[8] = torch.tensor([1.0, -1.0])  # 0.1 - 1: only patch 7 is its friend
    found = prior_of(centre_keys=False).group(Patches({"k": features}, {}, (4, 5), 1, 8, noise(32, 40)))
    assert found.scores.tolist() == [np.float32(1 - 1 / 19)]
