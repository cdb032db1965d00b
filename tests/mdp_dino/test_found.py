"""found against the paper's first step, transcribed head by head and patch by patch."""

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
from mdp_backbones.vit import VitReader
from mdp_core.api import Context, ImageRecord, Images, Silence
from mdp_dino.found import Found, attention_to_patches, cosines, head_weights, parts, refined, weighted
from mdp_dino.patches import Patches
from mdp_dino.settings.found import FoundConfig


def literal_attention(query: np.ndarray, keys: np.ndarray, prefix: int) -> np.ndarray:
    """query (heads, d), keys (heads, tokens, d) → (heads, N), without the first ``prefix`` tokens."""
    attention = []
    for q, k in zip(query.astype(np.float64), keys.astype(np.float64), strict=True):
        logits = [float(q @ one) / math.sqrt(len(q)) for one in k]
        highest = max(logits)
        exponentials = [math.exp(logit - highest) for logit in logits]
        attention.append([value / sum(exponentials) for value in exponentials][prefix:])
    return np.array(attention)


def literal_group(
    attention: np.ndarray, features: np.ndarray, grid: tuple[int, int], config: FoundConfig
) -> tuple[list[tuple[float, np.ndarray]], float]:
    """attention (heads, N), features (heads, N, d) → scores and masks, and the smallest distance of any decision to its tie."""
    heads, patches = attention.shape
    mean = attention.sum() / attention.size
    gap = np.abs(attention - mean).min() / mean
    shares = [sum(1 for value in attention[h] if value > mean) / patches for h in range(heads)]
    beta = [math.log(sum(share + 1e-10 for share in shares) / (share + 1e-10)) for share in shares]
    if not config.head_weights or heads == 1:
        beta = [1.0] * heads
    total = [sum(beta[h] * attention[h, i] for h in range(heads)) for i in range(patches)]
    seed = int(np.argmin(total))
    if patches > 1:
        gap = min(gap, (sorted(total)[1] - sorted(total)[0]) / mean)
    described = [np.concatenate([beta[h] * features[h, i] for h in range(heads)]) for i in range(patches)]
    likeness = [float(one @ described[seed]) / np.linalg.norm(one) / np.linalg.norm(described[seed]) for one in described]
    gap = min(gap, *(abs(value - config.background) for value in likeness))
    foreground = np.array([value <= config.background for value in likeness]).reshape(grid)
    margins = np.array([min(1, max(0, (config.background - value) / config.background)) for value in likeness]).reshape(grid)
    masks = literal_parts(foreground)
    if config.component == "largest" and masks:
        sizes = sorted((int(mask.sum()) for mask in masks), reverse=True)
        gap = min(gap, sizes[0] - sizes[1] if len(sizes) > 1 else 1)
        masks = [max(masks, key=lambda mask: mask.sum())]
    if config.component == "all" and masks:
        masks = [foreground]
    return [(float(margins[mask].mean()), mask) for mask in masks], gap


def literal_parts(mask: np.ndarray) -> list[np.ndarray]:
    """The 4-connected parts, by flood fill."""
    seen, found = np.zeros_like(mask), []
    for start in zip(*np.nonzero(mask), strict=True):
        if seen[start]:
            continue
        part, queue = np.zeros_like(mask), [start]
        while queue:
            y, x = queue.pop()
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and not seen[y, x]:
                seen[y, x] = part[y, x] = True
                queue += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        found.append(part)
    return found


def same(masks: np.ndarray, scores: np.ndarray, wanted: list[tuple[float, np.ndarray]]) -> None:
    by_mask = {mask.tobytes(): score for score, mask in wanted}
    assert sorted(mask.tobytes() for mask in masks) == sorted(by_mask)
    for mask, score in zip(masks, scores, strict=True):
        assert score == pytest.approx(by_mask[mask.tobytes()], abs=1e-4)


def prior_of(reader: VitReader | None = None, **chosen) -> Found:
    config = FoundConfig(**{"weights": "builtin:tiny", "short_side": 128, "centre_keys": True, **chosen})
    prior = Found(config, Context(listener=Silence()))
    if reader is not None:
        prior.__dict__["reader"] = reader  # instead of loading weights
    return prior


def images_of(arrays: list[np.ndarray]) -> Images:
    records = [ImageRecord(str(i), *array.shape[:2]) for i, array in enumerate(arrays)]
    return Images(records, lambda record: arrays[int(record.id)])


def by_head(values: torch.Tensor, heads: int) -> np.ndarray:
    return values.double().reshape(len(values), heads, -1).permute(1, 0, 2).numpy()


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    heads=st.integers(1, 5),
    dim=st.integers(1, 10),
    prefix=st.integers(1, 5),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    background=st.floats(0.05, 0.9),
    weights=st.booleans(),
    component=st.sampled_from(["largest", "each", "all"]),
    shift=st.floats(-1, 1),
)
def test_random_features_equal_the_literal_method(*, seed, heads, dim, prefix, grid, background, weights, component, shift):
    random, patches = np.random.default_rng(seed), grid[0] * grid[1]
    query = random.normal(size=(heads, dim)).astype(np.float32)
    keys = random.normal(size=(heads, prefix + patches, dim)).astype(np.float32)
    compared = (random.normal(size=(heads, patches, dim)) + shift).astype(np.float32)
    config = FoundConfig(facet="v", background=background, head_weights=weights, component=component)
    wanted, gap = literal_group(literal_attention(query, keys, prefix), compared, grid, config)
    assume(gap > 1e-4)

    def side_by_side(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).permute(1, 0, 2).flatten(1)

    values = {"k_rotary": side_by_side(keys[:, prefix:]), "v": side_by_side(compared)}
    there = {"k_rotary": side_by_side(keys[:, :prefix]), "q_rotary": torch.from_numpy(query).flatten()[None]}
    pixels = random.integers(0, 256, (*grid, 3), dtype=np.uint8)
    pixels[0, 0] = 255 - pixels[-1, -1]
    assume(patches > 1)
    found = Found(config, Context(listener=Silence())).group(Patches(values, there, grid, heads, 1, pixels))
    same(found.masks, found.scores, wanted)
    areas = found.masks.sum(axis=(1, 2)).tolist()
    assert areas == sorted(areas, reverse=True)


@pytest.mark.parametrize("component", ["largest", "each"])
@pytest.mark.parametrize("facet", ["k", "v"])
def test_photographs_equal_the_literal_method(component, facet, photographs):
    arrays = photographs(10)
    prior = prior_of(component=component, facet=facet)
    decided = 0
    for pixels, found in zip(arrays, prior.mine(images_of(arrays)), strict=True):
        height, width = pixels.shape[:2]
        short = min(height, width)
        size = [128 if side == short else int(128 * side / short) for side in (height, width)]
        small = np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.BILINEAR))
        padded = np.pad(small, ((0, -size[0] % 8), (0, -size[1] % 8), (0, 0)), mode="edge")
        (patches,) = prior.read([padded])
        query = by_head(patches.prefix["q_rotary"][:1], patches.heads)[:, 0]
        keys = by_head(torch.cat([patches.prefix["k_rotary"], patches.values["k_rotary"]]), patches.heads)
        values = by_head(patches.values[facet], patches.heads)
        values -= values.mean(axis=1, keepdims=True)
        wanted, gap = literal_group(literal_attention(query, keys, 1), values, patches.grid, prior.config)
        drawn = []
        for score, mask in wanted:
            out = np.zeros((height, width), bool)
            for y in range(height):
                row = int((y + 0.5) * size[0] / height) // 8
                for x in range(width):
                    out[y, x] = mask[row, int((x + 0.5) * size[1] / width) // 8]
            drawn.append((score, out))
        if gap > 1e-6:  # no decision is a near tie, so float32 and float64 agree
            decided += 1
            same(found.to_masks(), found.scores, drawn)
    assert decided >= 8


def test_attention_is_what_the_network_computes():
    """Against the attention of timm's own forward, in a network with registers and rotary positions."""
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_small_patch16_dinov3", embed_dim=48, depth=2, num_heads=3, num_classes=0, dynamic_img_size=True
    )
    for parameter in model.requires_grad_(False).parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    prior = prior_of(VitReader(model.eval()), short_side=96)
    pixels = np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8)
    seen, real = {}, torch.nn.functional.scaled_dot_product_attention

    def spy(q, k, v, **kwargs):
        identity = torch.eye(k.shape[2]).expand(*k.shape[:3], -1)
        seen["attention"] = real(q, k, identity, **kwargs)[0, :, 0, 5:]
        return real(q, k, v, **kwargs)

    (patches,) = prior.read([pixels])
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
        model(to_input([pixels], torch.device("cpu")))
    assert attention_to_patches(patches).shape == (3, 60)
    torch.testing.assert_close(attention_to_patches(patches), seen["attention"], atol=1e-6, rtol=1e-4)


def test_a_sparse_head_counts_more():
    flat, sparse = torch.full((1, 8), 0.12), torch.full((1, 8), 0.01)
    sparse[0, 3] = 0.3
    weights = head_weights(torch.cat([flat, sparse]))
    assert weights[1] > weights[0]
    assert head_weights(flat).tolist() == [1]
    assert torch.isfinite(head_weights(torch.full((3, 4), 0.2))).all()
    assert weighted(torch.ones(2, 4), torch.tensor([2.0, 3.0])).tolist() == [[2, 2, 3, 3]] * 2


def test_a_background_of_one_kind_leaves_all_objects():
    truth = np.zeros((10, 14), bool)
    truth[1:4, 1:5], truth[6:9, 8:13] = True, True
    background, object_ = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0, 1.0, 0.1, 0])
    keys = torch.where(torch.from_numpy(truth).reshape(-1, 1), object_, background)
    values = {"k_rotary": keys, "k": keys}
    prefix = {"k_rotary": torch.zeros(1, 4), "q_rotary": object_[None]}
    pixels = np.random.default_rng(0).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    patches = Patches(values, prefix, (10, 14), 2, 1, pixels)

    def group(**chosen):
        return Found(FoundConfig(**chosen), Context(listener=Silence())).group(patches)

    assert group(component="all").masks.tolist() == [truth.tolist()]
    assert group(component="all").scores.tolist() == [1]
    assert [int(mask.sum()) for mask in group(component="each").masks] == [15, 12]
    assert [int(mask.sum()) for mask in group().masks] == [15]


def test_patches_that_are_all_alike_hold_no_object():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    for keys in (torch.ones(20, 6), torch.zeros(20, 6)):
        prefix = {"k_rotary": torch.ones(1, 6), "q_rotary": torch.ones(1, 6)}
        patches = Patches({"k_rotary": keys, "k": keys}, prefix, (4, 5), 3, 1, pixels)
        for chosen in ({}, {"centre_keys": True}, {"component": "each"}, {"component": "all"}, {"head_weights": False}):
            assert len(Found(FoundConfig(**chosen), Context(listener=Silence())).group(patches).masks) == 0


def test_cosines_of_nothing_are_nought():
    assert cosines(torch.tensor([[0.0, 0.0], [3.0, 4.0], [8.0, 6.0]]), 1).tolist() == pytest.approx([0, 1, 0.96])
    assert cosines(torch.zeros(3, 2), 0).tolist() == [0, 0, 0]


@given(seed=st.integers(0, 1000), rows=st.integers(1, 8), columns=st.integers(1, 8), share=st.floats(0, 1))
def test_parts_are_those_of_a_flood_fill(seed, rows, columns, share):
    mask = np.random.default_rng(seed).random((rows, columns)) < share
    each = parts(mask, "each")
    assert sorted(part.tobytes() for part in each) == sorted(part.tobytes() for part in literal_parts(mask))
    assert [part.sum() for part in each] == sorted((part.sum() for part in each), reverse=True)
    assert [part.tobytes() for part in parts(mask, "largest")] == [part.tobytes() for part in each[:1]]
    assert [part.tobytes() for part in parts(mask, "all")] == [mask.tobytes()][: int(mask.any())]


def test_refined_borders_are_those_of_the_image():
    truth = np.zeros((61, 83), bool)
    truth[13:45, 21:62] = True
    pixels = np.where(truth[..., None], [210, 70, 50], [50, 80, 120]).astype(np.uint8)
    cells = np.zeros((8, 11), bool)
    cells[2:6, 2:8] = True
    cells[3, 4] = False  # a hole
    fine = refined(cells, pixels, 8)
    coarse = np.kron(cells, np.ones((8, 8), bool))[:61, :83]

    def overlap(mask: np.ndarray) -> float:
        return (mask & truth).sum() / (mask | truth).sum()

    assert overlap(fine) > 0.97 > overlap(coarse)


def test_a_refinement_that_leaves_too_little_is_not_taken():
    pixels = np.full((64, 64, 3), 90, np.uint8)
    pixels[:, 32:] = 200
    cells = np.zeros((8, 8), bool)
    cells[0, 0] = True  # the solver spreads it over its half, where nearly everything says background
    fine = refined(cells, pixels, 8)
    assert fine.sum() == 64
    assert fine[:8, :8].all()


def test_refined_masks_have_scores_and_the_size_of_the_image():
    pixels = np.full((96, 128, 3), 60, np.uint8)
    pixels[21:70, 35:90] = (220, 80, 60)
    (plain,) = prior_of(short_side=96).mine(images_of([pixels]))
    (fine,) = prior_of(short_side=96, refine=True).mine(images_of([pixels]))
    assert len(plain) == len(fine) == 1
    assert fine.size == (96, 128)
    assert 0 < fine.scores[0] <= 1
    assert fine.scores[0] == pytest.approx(plain.scores[0], abs=0.3)


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
    [
        {},
        {"component": "each"},
        {"component": "all", "refine": True, "padding": "zeros"},
        {"facet": "tokens"},
        {"centre_keys": False},
    ],
    ids=str,
)
def test_odd_images(chosen):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = list(prior_of(**{"short_side": 16, **chosen}).mine(images_of(list(ODD.values()))))
    for (name, pixels), one in zip(ODD.items(), found, strict=True):
        assert one.size == pixels.shape[:2]
        assert (one.areas() > 0).all()
        assert ((one.scores >= 0) & (one.scores <= 1)).all()
        if name in ("one pixel", "one colour"):
            assert len(one) == 0


def test_neither_batch_size_nor_company_matters():
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, (*((64, 96), (96, 64))[i % 2], 3), dtype=np.uint8) for i in range(5)]
    together = list(prior_of(short_side=64, batch=3).mine(images_of(arrays)))
    alone = [next(prior_of(short_side=64, batch=1).mine(images_of([array]))) for array in arrays]
    assert [one.masks for one in together] == [one.masks for one in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.scores.tolist() == pytest.approx(other.scores.tolist(), abs=1e-5)
