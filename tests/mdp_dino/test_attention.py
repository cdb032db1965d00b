"""dino-attention against softmax and cumulative mass, transcribed head by head and patch by patch."""

import math
import warnings

import numpy as np
import pytest
import timm
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from mdp_backbones.preprocess import to_input
from mdp_backbones.random_vit import random_vit
from mdp_backbones.vit import VitReader
from mdp_core.api import Context, ImageRecord, Images, Instances, Silence, StageError
from mdp_dino.attention import (
    DinoAttention,
    attention_to_patches,
    largest_of_mass,
    margin,
)
from mdp_dino.components import largest_components
from mdp_dino.patches import Patches
from mdp_dino.settings.attention import DinoAttentionConfig

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def literal_attention(q_cls: np.ndarray, k: np.ndarray, prefix: int) -> np.ndarray:
    """q_cls (heads, d), k (heads, T, d) → (heads, N), attention to the patches."""
    attention = np.zeros((len(k), k.shape[1] - prefix))
    for h in range(len(k)):
        logits = [float(q_cls[h] @ one) / math.sqrt(k.shape[2]) for one in k[h]]
        weights = [math.exp(logit - max(logits)) for logit in logits]
        attention[h] = [weight / sum(weights) for weight in weights][prefix:]
    return attention


def literal_mask(attention: np.ndarray, mass: float) -> tuple[np.ndarray, float]:
    """attention (N,) → the mask, and the smallest distance of any decision to its tie."""
    order = sorted(range(len(attention)), key=lambda j: (attention[j], j))
    running, gap, mask = 0.0, 1.0, np.zeros(len(attention), bool)
    for j in order:
        running += attention[j] / attention.sum()
        mask[j] = running > 1 - mass
        gap = min(gap, abs(running - (1 - mass)))
    ordered, first = attention[order], int((~mask).sum())
    if 0 < first < len(order):
        gap = min(gap, (ordered[first] - ordered[first - 1]) / attention.sum())
    return mask, gap


def literal_parts(mask: np.ndarray) -> list[np.ndarray]:
    """The 4-connected parts by flood fill, the largest first."""
    seen, found = np.zeros_like(mask), []
    for start in zip(*np.nonzero(mask), strict=True):
        part, queue = np.zeros_like(mask), [] if seen[start] else [start]
        while queue:
            y, x = queue.pop()
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and not seen[y, x]:
                seen[y, x] = part[y, x] = True
                queue += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        found += [part] if part.any() else []
    return sorted(found, key=lambda part: -part.sum())


def literal_margin(attention: np.ndarray, mask: np.ndarray) -> float:
    inside, outside = np.mean(attention[mask]), np.mean(attention[~mask])
    return max(0, (inside - outside) / (inside + outside))


def prior_of(**given) -> DinoAttention:
    return DinoAttention(DinoAttentionConfig(**{"weights": "builtin:random", **given}), Context(listener=Silence()))


def mine(arrays: list[np.ndarray], **given) -> list[Instances]:
    records = [ImageRecord(str(i), *array.shape[:2]) for i, array in enumerate(arrays)]
    return list(prior_of(**given).mine(Images(records, lambda record: arrays[int(record.id)])))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def patches_of(q_cls: np.ndarray, k: np.ndarray, prefix: int, grid: tuple[int, int]) -> Patches:
    keys, query = torch.from_numpy(k).permute(1, 0, 2).flatten(1), torch.from_numpy(q_cls).flatten()
    pixels = noise(8 * grid[0], 8 * grid[1])
    return Patches({"k_rotary": keys[prefix:]}, {"q_rotary": query[None], "k_rotary": keys[:prefix]}, grid, len(k), 8, pixels)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    heads=st.integers(1, 4),
    grid=st.tuples(st.integers(2, 8), st.integers(2, 8)),
    prefix=st.integers(1, 5),
    mass=st.floats(0.05, 0.95),
    head=st.sampled_from(["sum", 0]),
    components=st.sampled_from([None, 1, 2, 100]),
)
def test_equals_the_literal_method(*, seed, heads, grid, prefix, mass, head, components):
    random = np.random.default_rng(seed)
    q, k = 2 * random.normal(size=(heads, 6)), random.normal(size=(heads, prefix + grid[0] * grid[1], 6))
    attention = literal_attention(q, k, prefix)
    attention = attention.sum(axis=0) if head == "sum" else attention[head]
    mask, gap = literal_mask(attention, mass)
    assume(gap > 1e-9)
    found = prior_of(mass=mass, heads=head, components=components).group(patches_of(q, k, prefix, grid))
    if mask.all():
        assert len(found.masks) == 0
        return
    mask, attention = mask.reshape(grid), attention.reshape(grid)
    wanted = [mask] if components is None else literal_parts(mask)[:components]
    scores = [literal_margin(attention, part) for part in wanted]
    order = sorted(range(len(wanted)), key=lambda i: -scores[i])
    assert [one.tolist() for one in found.masks] == [wanted[i].tolist() for i in order]
    np.testing.assert_allclose(found.scores, [scores[i] for i in order], atol=1e-6)


def test_the_mask_holds_just_the_mass():
    attention = torch.tensor([0.5, 0.1, 0.2, 0.15, 0.05])
    assert largest_of_mass(attention, 0.75).tolist() == [True, False, True, True, False]
    assert largest_of_mass(attention, 0.6).tolist() == [True, False, True, False, False]
    assert largest_of_mass(attention, 0.45).tolist() == [True, False, False, False, False]
    assert largest_of_mass(10 * attention, 0.6).tolist() == [True, False, True, False, False]
    assert not largest_of_mass(torch.zeros(4), 0.6).any()


def test_components_are_the_largest_ones():
    mask = np.array([[1, 0, 1, 1], [0, 1, 0, 1], [1, 1, 0, 0]], bool)
    found = largest_components(mask, 2)
    assert [part.sum() for part in found] == [3, 3]
    assert found[0].tolist() == np.array([[0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]], bool).tolist()
    assert len(largest_components(mask, 10)) == 3
    assert largest_components(np.zeros((2, 3), bool), 2).shape == (0, 2, 3)


def test_margins_reach_from_nothing_to_one():
    attention = np.array([[1, 0], [0, 0]], np.float32)
    assert margin(attention, attention > 0) == 1
    assert margin(np.ones((2, 2), np.float32), attention > 0) == 0
    assert margin(attention, attention == 0) == 0  # less attended than the rest


def test_attention_is_that_of_the_network_with_registers_and_rotary_positions(monkeypatch):
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_small_patch16_dinov3", embed_dim=48, depth=2, num_heads=3, num_classes=0, dynamic_img_size=True
    ).eval()
    for parameter in model.requires_grad_(False).parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    prior, seen, real = prior_of(), {}, torch.nn.functional.scaled_dot_product_attention
    prior.__dict__["reader"] = VitReader(model)
    (patches,) = prior.read([noise(64, 96)])

    def spy(q, k, v, **kwargs):
        seen["attention"] = real(q, k, torch.eye(k.shape[2]).expand(1, q.shape[1], -1, -1), **kwargs)  # its own matrix
        return real(q, k, v, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    model(to_input([noise(64, 96)], torch.device("cpu")))
    wanted = seen["attention"][0, :, 0, 5:]
    assert wanted.shape == (3, 24)
    assert wanted.sum() < 2.99
    torch.testing.assert_close(attention_to_patches(patches), wanted, atol=1e-6, rtol=1e-4)


def literal_mine(pixels: np.ndarray, short_side: int, mass: float, head: int | None) -> tuple[np.ndarray, float, float]:
    """One image through the whole network with a hook, then pixels one by one."""
    height, width = pixels.shape[:2]
    size = [
        short_side if side == min(height, width) else int(short_side * side / min(height, width)) for side in (height, width)
    ]
    small = np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.BILINEAR))
    padded = (np.pad(small, ((0, -size[0] % 8), (0, -size[1] % 8), (0, 0)), mode="edge") / 255 - MEAN) / STD
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
    q, k, _ = caught["qkv"][0].reshape(-1, 3, 3, 64).permute(1, 2, 0, 3).double().numpy()
    attention = literal_attention(q[:, 0], k, 1)
    attention = attention.sum(axis=0) if head is None else attention[head]
    mask, gap = literal_mask(attention, mass)
    grid = mask.reshape(rows, columns)
    out = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            out[y, x] = grid[int((y + 0.5) * size[0] / height) // 8, int((x + 0.5) * size[1] / width) // 8]
    return out, literal_margin(attention, mask), gap


@pytest.mark.parametrize(("mass", "head"), [(0.75, None), (0.6, 1)])
def test_photographs_equal_the_literal_method(mass, head, photographs):
    arrays, clear = photographs(10), 0
    mined = mine(arrays, short_side=96, mass=mass, heads="sum" if head is None else head)
    for pixels, found in zip(arrays, mined, strict=True):
        wanted, score, gap = literal_mine(pixels, 96, mass, head)
        np.testing.assert_allclose(found.scores, [score], atol=1e-5)
        if gap > 1e-7:  # else two patches at the cut are equal to float32
            clear += 1
            assert (found.mask(0) == wanted).all()
    assert clear >= 8


def test_the_defaults_are_those_of_the_baseline():
    config = DinoAttentionConfig()
    assert (config.heads, config.mass, config.components, config.short_side) == ("sum", 0.75, None, 640)


def test_neither_batch_size_nor_company_matters():
    arrays = [noise(*((40, 56), (56, 40))[seed % 2], seed) for seed in range(7)]
    alone = [mine([array], batch=1, short_side=40, components=3)[0] for array in arrays]
    for batch in (1, 3, 8):
        together = mine(arrays, batch=batch, short_side=40, components=3)
        assert [one.masks for one in together] == [one.masks for one in alone]
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)


@pytest.mark.parametrize("weights", ["builtin:tiny", "builtin:random"])
@pytest.mark.parametrize("components", [None, 2])
def test_odd_images(weights, components):
    arrays = [noise(1, 1), noise(1, 90), noise(90, 1), noise(3, 200), noise(9, 17), np.full((40, 50, 3), 7, np.uint8)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mined = mine(arrays, weights=weights, short_side=None, components=components)
    for pixels, found in zip(arrays, mined, strict=True):
        assert found.size == pixels.shape[:2]
        assert (found.areas() > 0).all()
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert len(mined[0]) == len(mined[-1]) == 0  # one pixel, and one colour
    assert len(mined[3]) > 0


def test_even_attention_is_no_object():
    q, k = np.ones((2, 4)), np.ones((2, 1 + 12, 4))
    assert len(prior_of().group(patches_of(q, k, 1, (3, 4))).masks) == 0
    k[:, 5] += 1
    assert len(prior_of().group(patches_of(q, k, 1, (3, 4))).masks) == 1


def test_a_head_that_is_not_there_is_an_error():
    with pytest.raises(StageError, match="no head 3 in a block of 3"):
        mine([noise(32, 32)], short_side=32, heads=3)
