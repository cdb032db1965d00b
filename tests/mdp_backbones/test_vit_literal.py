"""Attention maps and affinities against a forward pass as the papers print it: nothing fused, no shared code, float64.

Dosovitskiy et al. (https://arxiv.org/abs/2010.11929), layer scale (https://arxiv.org/abs/2103.17239), registers
(https://arxiv.org/abs/2309.16588) and DINOv3's rotary positions (https://arxiv.org/abs/2508.10104, §3.2).
"""

import math
from dataclasses import dataclass

import pytest
import timm
import torch
from torch import Tensor

from mdp_backbones.vit import Facets, VitReader


@dataclass
class Seen:
    """One block: q and k (heads, tokens, d) as attention compares them, before rotary positions too, and softmax(q kᵀ / √d)."""

    q: Tensor
    k: Tensor
    plain_k: Tensor
    attention: Tensor


def cubic(distance: float, a: float) -> float:
    """Keys' cubic kernel."""
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def resampling(native: int, wanted: int, antialias: bool) -> Tensor:
    """The matrix (wanted, native) of bicubic resampling along one axis.

    Without antialiasing a = -0.75 and the edge repeats; with it a = -0.5, the kernel is stretched when shrinking, and what
    lies outside is left out, the rest weighing 1 together.
    """
    matrix = torch.zeros(wanted, native, dtype=torch.float64)
    if native == wanted:
        return torch.eye(native, dtype=torch.float64)
    stretch = max(native / wanted, 1.0)
    for row in range(wanted):
        at = (row + 0.5) * native / wanted - 0.5
        if antialias:
            for column in range(native):
                matrix[row, column] = cubic((column - at) / stretch, -0.5)
            matrix[row] /= matrix[row].sum()
        else:
            for column in range(math.floor(at) - 1, math.floor(at) + 3):
                matrix[row, min(max(column, 0), native - 1)] += cubic(at - column, -0.75)
    return matrix


def norm(x: Tensor, state: dict[str, Tensor], name: str, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def turned(heads: Tensor, rows: int, columns: int, temperature: float) -> Tensor:
    """Rotates (heads, N, d): element j pairs with j + d/2; the first quarter of angles is from y, the second from x."""
    half, quarter = heads.shape[-1] // 2, heads.shape[-1] // 4
    out = torch.empty_like(heads)
    for n in range(rows * columns):
        y, x = 2 * (n // columns + 0.5) / rows - 1, 2 * (n % columns + 0.5) / columns - 1
        for j in range(half):
            period = temperature ** ((j % quarter) / quarter)
            angle = 2 * math.pi * (y if j < quarter else x) / period
            pair = torch.complex(heads[:, n, j], heads[:, n, j + half]) * complex(math.cos(angle), math.sin(angle))
            out[:, n, j], out[:, n, j + half] = pair.real, pair.imag
    return out


def tokens_of(model, state: dict[str, Tensor], pixels: Tensor, patch: int, antialias: bool) -> tuple[Tensor, int, int, int]:
    """Patches, positions and prefix: (P + N, dim), P, rows, columns."""
    rows, columns = pixels.shape[1] // patch, pixels.shape[2] // patch
    patches = []
    for row in range(rows):
        for column in range(columns):
            cut = pixels[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            kernel = state["patch_embed.proj.weight"]
            patches.append((kernel * cut).sum(dim=(1, 2, 3)) + state["patch_embed.proj.bias"])
    tokens = torch.stack(patches)
    prefix = [state[name][0] for name in ("cls_token", "reg_token") if name in state]
    prefixed = torch.cat([*prefix, tokens[:0]])
    if "pos_embed" in state:
        positions, first = state["pos_embed"][0], 0 if model.no_embed_class else len(prefixed)
        side = math.isqrt(len(positions) - first)
        grid = positions[first:].reshape(side, side, -1)
        down, across = resampling(side, rows, antialias), resampling(side, columns, antialias)
        tokens = tokens + torch.einsum("ry,cx,yxd->rcd", down, across, grid).reshape(rows * columns, -1)
        prefixed = prefixed if model.no_embed_class else prefixed + positions[:first]
    return torch.cat([prefixed, tokens]), len(prefixed), rows, columns


def forward(model, pixels: Tensor, *, patch: int, antialias: bool, eps: float, temperature: float | None = None) -> list[Seen]:
    """All blocks of one image, float (3, H, W)."""
    state = {name: value.double() for name, value in model.state_dict().items()}
    x, first, rows, columns = tokens_of(model, state, pixels.double(), patch, antialias)
    seen = []
    for index, block in enumerate(model.blocks):
        own = {name.removeprefix(f"blocks.{index}."): value for name, value in state.items() if f"blocks.{index}." in name}
        heads = block.attn.num_heads
        width = x.shape[1] // heads
        joint = norm(x, own, "norm1", eps) @ own["attn.qkv.weight"].T + own.get("attn.qkv.bias", torch.zeros(()))
        q, k, v = (joint[:, n * x.shape[1] : (n + 1) * x.shape[1]].reshape(-1, heads, width).transpose(0, 1) for n in range(3))
        plain = k
        if temperature is not None:
            q, k = (torch.cat([one[:, :first], turned(one[:, first:], rows, columns, temperature)], dim=1) for one in (q, k))
        weights = torch.exp(q @ k.transpose(1, 2) / math.sqrt(width))
        weights = weights / weights.sum(-1, keepdim=True)
        seen.append(Seen(q, k, plain, weights))
        gathered = (weights @ v).transpose(0, 1).reshape(x.shape) @ own["attn.proj.weight"].T + own["attn.proj.bias"]
        x = x + gathered * own.get("ls1.gamma", own.get("gamma_1", torch.ones(())))
        hidden = norm(x, own, "norm2", eps) @ own["mlp.fc1.weight"].T + own["mlp.fc1.bias"]
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        out = hidden @ own["mlp.fc2.weight"].T + own["mlp.fc2.bias"]
        x = x + out * own.get("ls2.gamma", own.get("gamma_2", torch.ones(())))
    return seen


SMALL = {"embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 0, "dynamic_img_size": True}
NETWORKS = {
    "CLS (DINO S/16)": (
        lambda: timm.create_model("vit_small_patch16_224.dino", img_size=64, **SMALL),
        {"patch": 16, "antialias": False, "eps": 1e-6},
    ),
    "CLS, patch 8 (DINO S/8)": (
        lambda: timm.create_model("vit_small_patch8_224.dino", img_size=40, **SMALL),
        {"patch": 8, "antialias": False, "eps": 1e-6},
    ),
    "registers (DINOv2 S/14)": (
        lambda: timm.create_model("vit_small_patch14_reg4_dinov2", img_size=56, **SMALL),
        {"patch": 14, "antialias": True, "eps": 1e-6},
    ),
    "no CLS": (
        lambda: timm.models.VisionTransformer(img_size=32, patch_size=8, class_token=False, global_pool="avg", **SMALL),
        {"patch": 8, "antialias": False, "eps": 1e-6},
    ),
    "rotary (DINOv3 S/16)": (
        lambda: timm.create_model("vit_small_patch16_dinov3", **SMALL),
        {"patch": 16, "antialias": True, "eps": 1e-5, "temperature": 100},
    ),
}
GRIDS = [(4, 4), (5, 7), (9, 3), (1, 2)]


def network(name: str) -> tuple[torch.nn.Module, dict]:
    """A small random network, every parameter moved from its initial value."""
    torch.manual_seed(5)
    build, settings = NETWORKS[name]
    model = build().eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model, settings


def all_tokens(facets: Facets, facet: str) -> Tensor:
    """(heads, P + N, d) of the first image, in float64."""
    both = torch.cat([facets[facet].prefix[0], facets[facet].patches[0]]).double()
    return both.unflatten(-1, (facets.heads, -1)).transpose(0, 1)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_attention_and_affinities_equal_the_literal_forward(name, grid):
    model, settings = network(name)
    side = settings["patch"]
    pixels = torch.randn(3, grid[0] * side, grid[1] * side)
    seen = forward(model, pixels, **settings)
    reader = VitReader(model)
    for index, wanted in enumerate(seen):
        facets = reader.read(pixels[None], index, ("q_rotary", "k_rotary", "k"))
        assert facets.grid == grid
        q, k, plain = (all_tokens(facets, facet) for facet in ("q_rotary", "k_rotary", "k"))
        attention = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), dim=-1)
        assert attention.shape[1] == grid[0] * grid[1] + model.num_prefix_tokens
        torch.testing.assert_close(attention, wanted.attention, atol=1e-4, rtol=0)
        assert wanted.attention.std() > 1e-3  # the maps are no constant that any network would give
        patches = slice(model.num_prefix_tokens, None)
        for found, literal in ((plain, wanted.plain_k), (k, wanted.k)):
            affinity, truth = (one[:, patches] @ one[:, patches].transpose(1, 2) for one in (found, literal))
            torch.testing.assert_close(affinity / truth.abs().max(), truth / truth.abs().max(), atol=1e-4, rtol=0)
            torch.testing.assert_close(affinity, truth, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "no CLS"])
def test_the_last_block_equals_the_literal_forward(name):
    model, settings = network(name)
    pixels = torch.randn(3, 3 * settings["patch"], 5 * settings["patch"])
    wanted = forward(model, pixels, **settings)[-1]
    block = VitReader(model).last_block(pixels[None])
    keys, query = wanted.plain_k[:, model.num_prefix_tokens :], wanted.q[:, 0]
    torch.testing.assert_close(block.keys[0].double(), keys.transpose(0, 1).flatten(1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(block.query[0].double(), query.flatten(), atol=1e-4, rtol=1e-4)
    assert block.grid == (3, 5)
    assert block.heads == 3


def test_rotary_positions_turn_keys_and_keep_their_lengths():
    model, settings = network("rotary (DINOv3 S/16)")
    facets = VitReader(model).read(torch.randn(1, 3, 2 * settings["patch"], 3 * settings["patch"]), facets=("k", "k_rotary"))
    plain, turned_keys = facets["k"], facets["k_rotary"]
    assert (plain.prefix == turned_keys.prefix).all()
    assert not torch.allclose(plain.patches, turned_keys.patches, atol=0.1)
    torch.testing.assert_close(plain.patches.norm(dim=-1), turned_keys.patches.norm(dim=-1))
