"""Official layouts: each loads through ``file:``; features equal the published architectures, written down literally."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional

from mdp_backbones.layouts import CONTAINERS, LAYOUTS, encoder_of, likely_arch
from mdp_backbones.preprocess import HALF, IMAGENET
from mdp_backbones.weights import load_vit
from mdp_core.api import Context, Silence, WeightsError

State = dict[str, Tensor]
TINY = "vit_tiny_patch16_224"


def official(
    width: int = 192, depth: int = 12, patch: int = 16, side: int = 14, hidden: int | None = None, scale: bool = False
) -> State:
    """An encoder as facebookresearch/dino names it (and, with layer scale, dinov2), shapes written down by hand."""
    hidden = hidden or 4 * width
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + side * side, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
    }
    for index in range(depth):
        block = f"blocks.{index}."
        layers = {
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.fc1": (hidden, width),
            "mlp.fc2": (width, hidden),
        }
        for name, (rows, columns) in layers.items():
            shapes |= {f"{block}{name}.weight": (rows, columns), f"{block}{name}.bias": (rows,)}
        for name in ("norm1", "norm2"):
            shapes |= {f"{block}{name}.weight": (width,), f"{block}{name}.bias": (width,)}
        if scale:
            shapes |= {f"{block}ls1.gamma": (width,), f"{block}ls2.gamma": (width,)}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    generator = torch.Generator().manual_seed(0)
    state = {name: 0.05 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {
        name: value + 1 if name.endswith(("norm1.weight", "norm2.weight", "norm.weight")) else value
        for name, value in state.items()
    }


def forward(state: State, pixels: Tensor, heads: int) -> dict[str, Tensor]:
    """The published architecture, step by step in float64: of CLS after the final norm, and the last block's keys.

    DINO (arXiv 2104.14294) on ViT (2010.11929); DINOv2 (2304.07193) with layer scale; registers (2309.16588) enter after the
    positions, which they have none of, between CLS and the patches.
    """
    state = {name: value.double() for name, value in state.items()}
    pixels = pixels.double()
    kernel = state["patch_embed.proj.weight"]
    width, patch = kernel.shape[0], kernel.shape[-1]
    rows, columns = pixels.shape[1] // patch, pixels.shape[2] // patch
    tokens = [state["cls_token"][0, 0]]
    for row in range(rows):
        for column in range(columns):
            cell = pixels[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            tokens.append((kernel * cell).sum(dim=(1, 2, 3)) + state["patch_embed.proj.bias"])
    x = torch.stack(tokens) + state["pos_embed"][0]
    if "register_tokens" in state:
        x = torch.cat([x[:1], state["register_tokens"][0], x[1:]])

    def norm(x: Tensor, name: str) -> Tensor:
        deviation = ((x - x.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True) + 1e-6
        return (x - x.mean(-1, keepdim=True)) / deviation.sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    size, keys = width // heads, torch.empty(0)
    for index in range(depth):
        block = f"blocks.{index}"
        q, keys, v = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").split(width, dim=-1)
        mixed = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            mixed.append(torch.softmax(q[:, part] @ keys[:, part].T / math.sqrt(size), dim=-1) @ v[:, part])
        x = x + linear(torch.cat(mixed, dim=-1), f"{block}.attn.proj") * state.get(f"{block}.ls1.gamma", torch.ones(width))
        hidden = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        x = x + linear(hidden, f"{block}.mlp.fc2") * state.get(f"{block}.ls2.gamma", torch.ones(width))
    prefix = 1 + (state["register_tokens"].shape[1] if "register_tokens" in state else 0)
    return {"cls": norm(x, "norm")[0], "keys": keys[prefix:], "cls_query": q[0]}


def load(tmp_path: Path, content: Mapping[str, Any], arch: str, listener: Silence | None = None):
    torch.save(content, tmp_path / "weights.pth")
    return load_vit(f"file:{tmp_path / 'weights.pth'}", Context(listener=listener or Silence()), arch=arch)


def compare_with_the_literal_one(reader, state: State, heads: int, height: int, width: int) -> None:
    pixels = torch.randn(3, height, width, generator=torch.Generator().manual_seed(1))
    wanted = forward(state, pixels, heads)
    last = reader.last_block(pixels[None])
    for found, name in ((reader.embed(pixels[None])[0], "cls"), (last.keys[0], "keys"), (last.query[0], "cls_query")):
        assert wanted[name].std() > 0.1
        assert (found.double() - wanted[name]).abs().max() < 1e-5, name


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def dino_training(state: State) -> dict[str, Any]:
    head = {"head.mlp.0.weight": torch.ones(4, 192), "head.last_layer.weight_g": torch.ones(8, 1)}
    teacher = {**prefixed(state, "backbone."), **head}
    student = {f"module.{name}": value + 1 for name, value in teacher.items()}
    return {"student": student, "teacher": teacher, "epoch": 100, "dino_loss": {"center": torch.zeros(1, 8)}}


def ibot_training(state: State) -> dict[str, Any]:
    head = {"module.head.last_layer2.weight_v": torch.ones(4, 4)}
    teacher = {**prefixed(state, "module.backbone."), **head}
    return {
        "teacher": teacher,
        "student": {**teacher, "module.backbone.masked_embed": torch.ones(1, 192)},
        "fp16_scaler": {"scale": 1.0},
    }


def student_alone(state: State) -> dict[str, Any]:
    return {"student": {**prefixed(state, "module.backbone."), "module.backbone.masked_embed": torch.ones(1, 192)}, "epoch": 3}


def moco_v3(state: State) -> dict[str, Any]:
    heads = {"module.base_encoder.head.0.weight": torch.ones(4, 192), "module.predictor.0.weight": torch.ones(4, 4)}
    momentum = {**prefixed({name: value + 1 for name, value in state.items()}, "module.momentum_encoder.")}
    return {"epoch": 300, "arch": "vit_small", "state_dict": {**prefixed(state, "module.base_encoder."), **momentum, **heads}}


def mae_with_decoder(state: State) -> dict[str, Any]:
    decoder = {
        "mask_token": torch.ones(1, 1, 64), "decoder_pos_embed": torch.ones(1, 197, 64), "decoder_embed.weight": torch.ones(64, 192),
        "decoder_blocks.0.norm1.weight": torch.ones(64), "decoder_norm.weight": torch.ones(64), "decoder_pred.weight": torch.ones(768, 64),
    }  # fmt: skip
    return {"model": {**state, **decoder}}


WRAPPED: dict[str, tuple[Callable[[State], dict[str, Any]], str]] = {
    "DINO, backbone alone": (dict, "a state dict"),
    "DINO, training": (dino_training, "the teacher in a checkpoint of DINO, iBOT or DINOv2"),
    "iBOT, training": (ibot_training, "the teacher in a checkpoint of DINO, iBOT or DINOv2"),
    "iBOT, released": (lambda state: {"state_dict": state}, "'state_dict', as iBOT's releases"),
    "student alone": (student_alone, "the student in a checkpoint of DINO or iBOT"),
    "teacher without prefix": (lambda state: {"teacher": state}, "'teacher' alone"),
    "MoCo v3": (moco_v3, "a checkpoint of MoCo v3"),
    "MoCo v3, momentum encoder": (
        lambda state: {"state_dict": prefixed(state, "module.momentum_encoder.")},
        "the momentum encoder of MoCo v3",
    ),
    "MAE, released": (lambda state: {"model": state}, "'model', as MAE's and DeiT's releases"),
    "MAE, with decoder": (mae_with_decoder, "'model', as MAE's and DeiT's releases"),
    "state_dict with backbone": (lambda state: {"state_dict": prefixed(state, "backbone.")}, "'state_dict' with a backbone"),
    "backbone prefix": (lambda state: prefixed(state, "module.backbone."), "a state dict with a backbone"),
    "timm, supervised": (
        lambda state: {**state, "head.weight": torch.ones(10, 192), "head.bias": torch.ones(10)},
        "a state dict",
    ),
    "compiled": (lambda state: prefixed(state, "_orig_mod."), "a state dict"),
}


@pytest.fixture(scope="module")
def tiny() -> State:
    return official()


@pytest.mark.parametrize("name", WRAPPED)
def test_every_container_gives_the_same_encoder(tiny: State, name: str) -> None:
    wrap, container = WRAPPED[name]
    found = encoder_of(wrap(tiny), "file:x.pth")
    assert found.state.keys() == tiny.keys()
    assert all(torch.equal(found.state[key], tiny[key]) for key in tiny)
    assert found.layout.endswith(f"; {container}")
    published = ("teacher", "student", "MoCo", "MAE")
    assert found.normalisation == (IMAGENET if any(word in container for word in published) else None)


def test_every_row_of_the_tables_is_tested() -> None:
    assert {container for _, container in WRAPPED.values()} == {container.name for container in CONTAINERS}
    assert len(LAYOUTS) == 5, "DINOv3, DINOv2 twice, MAE and timm's, all below"


def test_official_dino_gives_the_features_of_the_paper(tmp_path: Path) -> None:
    state = official(width=384, side=14)
    loaded = load(tmp_path, {"teacher": prefixed(state, "module.backbone."), "student": {}}, "vit_small_patch16_224.dino")
    assert loaded.reader.normalisation == IMAGENET
    assert loaded.facts.layout.startswith("timm, DINO")
    compare_with_the_literal_one(loaded.reader, state, heads=6, height=224, width=224)


@pytest.mark.slow
def test_official_dinov2_with_registers_gives_the_features_of_the_paper(tmp_path: Path) -> None:
    """Positions for 37 × 37 patches and CLS, 1370, none for the registers."""
    state = official(width=384, patch=14, side=37, scale=True)
    state |= {"register_tokens": torch.randn(1, 4, 384), "mask_token": torch.randn(1, 384)}
    assert state["pos_embed"].shape == (1, 1370, 384)
    loaded = load(tmp_path, state, "vit_small_patch14_reg4_dinov2")
    assert loaded.facts.layout == "DINOv2 with registers; a state dict"
    assert loaded.reader.normalisation == IMAGENET
    assert loaded.reader.model.pos_embed.shape == (1, 1369, 384)
    compare_with_the_literal_one(loaded.reader, state, heads=6, height=518, width=518)


@pytest.mark.parametrize("registers", [False, True])
def test_official_dinov2_in_chunks_and_for_another_grid(tmp_path: Path, registers: bool) -> None:
    """A teacher of a training with FSDP, at 112 pixels: its positions stay what they are."""
    state = official(width=384, patch=14, side=8, scale=True)
    if registers:
        state["register_tokens"] = torch.randn(1, 4, 384)
    chunked = {}
    for name, value in {**state, "mask_token": torch.randn(1, 384)}.items():
        parts = name.split(".")
        chunked[
            ".".join(["backbone.blocks", str(int(parts[1]) // 3), *parts[1:]]) if parts[0] == "blocks" else f"backbone.{name}"
        ] = value
    assert "backbone.blocks.3.11.ls1.gamma" in chunked
    content = {"teacher": {**chunked, "dino_head.mlp.0.weight": torch.ones(2, 2), "ibot_head.mlp.0.weight": torch.ones(2, 2)}}
    loaded = load(tmp_path, content, f"vit_small_patch14_{'reg4_' * registers}dinov2")
    positions = loaded.reader.model.pos_embed
    assert torch.equal(positions, state["pos_embed"][:, 1:] if registers else state["pos_embed"])
    compare_with_the_literal_one(loaded.reader, state, heads=6, height=112, width=112)


def test_the_giants_swiglu_is_renamed() -> None:
    state = official(width=96, depth=2, scale=True) | {"mask_token": torch.zeros(1, 96)}
    for index in range(2):
        for part in ("weight", "bias"):
            state[f"blocks.{index}.mlp.w12.{part}"] = state.pop(f"blocks.{index}.mlp.fc1.{part}")
            state[f"blocks.{index}.mlp.w3.{part}"] = state.pop(f"blocks.{index}.mlp.fc2.{part}")
    found = encoder_of(state, "x").state
    assert torch.equal(found["blocks.1.mlp.fc1.weight"], state["blocks.1.mlp.w12.weight"])
    assert torch.equal(found["blocks.1.mlp.fc2.bias"], state["blocks.1.mlp.w3.bias"])


def test_moco_v3s_small_network_has_twelve_heads(tmp_path: Path) -> None:
    """facebookresearch/moco-v3, vits.py: heads change no shape, so a network with six would load and be wrong."""
    state = official(width=384, depth=12)
    loaded = load(tmp_path, moco_v3(state), "vit_small_patch16_224")
    assert loaded.reader.heads == 12
    assert loaded.reader.normalisation == IMAGENET
    compare_with_the_literal_one(loaded.reader, state, heads=12, height=224, width=224)


def dinov3(arch: str) -> tuple[State, State]:
    """An official DINOv3 state made from a timm network of random weights, and that network's state."""
    torch.manual_seed(0)
    wanted = timm.create_model(arch, num_classes=0).state_dict()
    wanted = {name: 0.02 * torch.randn_like(value) for name, value in wanted.items()}
    state = {"mask_token": torch.ones(1, 192), "rope_embed.periods": 100 ** (torch.arange(16) / 16)}
    names = {
        "gamma_1": "ls1.gamma",
        "gamma_2": "ls2.gamma",
        "reg_token": "storage_tokens",
        "mlp.fc1_g": "mlp.w1",
        "mlp.fc1_x": "mlp.w2",
    }
    for name, value in wanted.items():
        attention = name.rpartition(".")[0]
        if name.endswith("q_bias"):
            state[f"{attention}.qkv.bias"] = torch.cat([value, torch.full_like(value, 9.0), wanted[f"{attention}.v_bias"]])
            mask = torch.ones_like(value)
            state[f"{attention}.qkv.bias_mask"] = torch.cat([mask, 0 * mask, mask])
        elif not name.endswith("v_bias"):
            for ours, theirs in names.items():
                name = name.replace(ours, theirs)  # noqa: PLW2901
            state[name] = value
    return state, wanted


def test_official_dinov3(tmp_path: Path) -> None:
    arch = "vit_tiny_patch16_dinov3_qkvb"
    state, wanted = dinov3(arch)
    assert {"storage_tokens", "blocks.0.ls1.gamma", "blocks.3.attn.qkv.bias", "blocks.3.attn.qkv.bias_mask"} < state.keys()
    loaded = load(tmp_path, state, arch)
    found = loaded.reader.model.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert loaded.facts.layout == "DINOv3; a state dict"
    assert loaded.reader.embed(torch.rand(1, 3, 48, 64)).shape == (1, 192)


def test_dinov3_without_biases_and_with_other_positions(tmp_path: Path) -> None:
    """Where queries and values learnt no bias, timm's network has none; where the network has none, a bias is an error."""
    state, _ = dinov3("vit_tiny_patch16_dinov3_qkvb")
    silent = {name: torch.zeros_like(value) if name.endswith("qkv.bias") else value for name, value in state.items()}
    found = encoder_of(silent, "x").state
    assert not any("bias" in name and "attn.q" in name for name in found)
    assert "blocks.0.attn.q_bias" in encoder_of(state, "x").state
    state["rope_embed.periods"] = 10_000 ** (torch.arange(16) / 16)
    with pytest.raises(WeightsError, match=r"x: this DINOv3 has rotary positions of another base"):
        encoder_of(state, "x")


class Warnings(Silence):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def warn(self, message: str) -> None:
        self.texts.append(message)


@pytest.mark.parametrize(
    ("arch", "wrap", "wanted", "warned"),
    [
        (TINY, dict, IMAGENET, True),
        (f"{TINY}.augreg_in21k", dict, HALF, False),
        (TINY, lambda state: {"model": state}, IMAGENET, False),
    ],
)
def test_normalisation_of_the_layout_then_of_the_tag_then_imagenet_with_a_warning(
    tmp_path, tiny, arch, wrap, wanted, warned
) -> None:
    listener = Warnings()
    assert load(tmp_path, wrap(tiny), arch, listener).reader.normalisation == wanted
    assert len(listener.texts) == warned
    if warned:
        assert f"write arch: {TINY}.augreg" in listener.texts[0]


def test_errors_name_layout_tensors_and_the_likely_architecture(tmp_path: Path, tiny: State) -> None:
    with pytest.raises(WeightsError) as caught:
        load(tmp_path, {"model": tiny}, "vit_small_patch16_224.dino")
    assert (
        "weights.pth (layout: timm, DINO, iBOT, MAE, MoCo v3; 'model', as MAE's and DeiT's releases) with arch: vit_small"
        in caught.value.message
    )
    assert "blocks.0.attn.proj.weight (192, 192) instead of (384, 384)" in caught.value.message
    assert f"width 192 and patch 16: try arch: {TINY}" in caught.value.hint
    broken = {**tiny, "blocks.0.extra": torch.zeros(1)}
    del broken["blocks.3.attn.qkv.bias"]
    with pytest.raises(WeightsError, match=r"1 missing \(blocks\.3\.attn\.qkv\.bias\); 1 unexpected \(blocks\.0\.extra\)"):
        load(tmp_path, broken, TINY)


def test_what_no_layout_explains_is_an_error(tiny: State) -> None:
    with pytest.raises(
        WeightsError, match=r"x: queue are neither the encoder's nor known to be beside it \(layout: a checkpoint of MoCo v3\)"
    ):
        encoder_of({"state_dict": {**moco_v3(tiny)["state_dict"], "module.queue": torch.ones(2)}}, "x")
    with pytest.raises(WeightsError, match=r"x: no ViT is in it: no known layout; it has a, b") as caught:
        encoder_of({"a": torch.ones(1), "b": {}}, "x")
    assert "DINOv2 with registers" in caught.value.hint
    assert "MoCo v3" in caught.value.hint
    renamed = {name.replace("norm1", "ln_1"): value for name, value in tiny.items()}
    with pytest.raises(WeightsError, match=r"a state dict holds a network whose blocks have unknown names: blocks\.0\."):
        encoder_of(renamed, "x")
    with pytest.raises(WeightsError, match="it has nothing"):
        encoder_of({}, "x")


def test_positions_of_no_square_are_not_taken_for_another_grid(tmp_path: Path, tiny: State) -> None:
    with pytest.raises(WeightsError, match=r"pos_embed \(1, 100, 192\) instead of \(1, 197, 192\)"):
        load(tmp_path, {**tiny, "pos_embed": torch.zeros(1, 100, 192)}, TINY)
    loaded = load(tmp_path, {**tiny, "pos_embed": (cells := torch.randn(1, 65, 192))}, TINY)
    assert torch.equal(loaded.reader.model.pos_embed, cells)
    assert functional.mse_loss(loaded.reader.embed(torch.rand(1, 3, 128, 128)), torch.zeros(1, 192)) > 0


@pytest.mark.parametrize(
    "arch",
    [
        TINY, "vit_small_patch16_224.dino", "vit_small_patch8_224.dino", "vit_base_patch14_dinov2", "vit_small_patch14_reg4_dinov2",
        "vit_large_patch16_224", "vit_huge_patch14_224", "vit_small_patch16_dinov3", "vit_base_patch16_dinov3_qkvb", "vit_giant_patch14_dinov2",
        "vit_small_plus_patch16_dinov3", "vit_huge_plus_patch16_dinov3",
    ],
)  # fmt: skip
def test_the_likely_architecture(arch: str) -> None:
    with torch.device("meta"):
        assert likely_arch(timm.create_model(arch, num_classes=0).state_dict()) == arch
    assert likely_arch({"patch_embed.proj.weight": torch.zeros(111, 3, 16, 16)}) is None
