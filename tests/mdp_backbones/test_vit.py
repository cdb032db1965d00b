"""The reader against hooks in timm's own complete forward pass, family by family."""

from functools import partial

import pytest
import timm
import torch
from timm.layers import DiffAttention, RmsNorm
from timm.models import deit, eva, vision_transformer
from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer
from torch import nn

from mdp_backbones import tiny  # noqa: F401 - registers mdp_vit_tiny
from mdp_backbones.preprocess import HALF, IMAGENET
from mdp_backbones.random_vit import random_vit
from mdp_backbones.vit import VitReader
from mdp_core.api import StageError, WeightsError

SMALL = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 3,
    "num_heads": 3,
    "num_classes": 0,
    "dynamic_img_size": True,
}
NAMED = {"embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 0, "dynamic_img_size": True}
ROPE3 = {"use_rot_pos_emb": True, "rope_type": "dinov3", "rope_temperature": 100, "rope_rotate_half": True}


def vit(cls=VisionTransformer, **settings) -> nn.Module:
    return cls(**{**SMALL, **settings})


def eva_vit(**settings) -> nn.Module:
    return eva.Eva(**{**SMALL, "global_pool": "token", "use_abs_pos_emb": False, **settings})


def named(name: str, **settings) -> nn.Module:
    return timm.create_model(name, **{**NAMED, **settings})


FAMILIES = {
    "plain": vit,
    "no qkv bias": partial(vit, qkv_bias=False),
    "qk norm": partial(vit, qk_norm=True),
    "registers": partial(vit, reg_tokens=2),
    "registers, class not embedded, layer scale": partial(vit, reg_tokens=2, no_embed_class=True, init_values=0.1),
    "pre norm": partial(vit, pre_norm=True),
    "one block": partial(vit, depth=1),
    "no positions": partial(vit, pos_embed="none"),
    "no class": partial(vit, class_token=False, global_pool="avg"),
    "no class, registers": partial(vit, class_token=False, reg_tokens=3, no_embed_class=True, global_pool="avg"),
    "no class, attention pool": partial(vit, class_token=False, global_pool="map"),
    "class, norm after the mean": partial(vit, global_pool="avg"),
    "distilled": partial(vit, deit.VisionTransformerDistilled),
    "norm after": partial(vit, block_fn=vision_transformer.ResPostBlock),
    "mdp_vit_tiny": lambda: timm.create_model("mdp_vit_tiny", num_classes=0, dynamic_img_size=True),
    "DINO S/16": partial(named, "vit_small_patch16_224.dino", img_size=64),
    "DINO S/8": partial(named, "vit_small_patch8_224.dino", img_size=32),
    "DINOv2 S/14": partial(named, "vit_small_patch14_dinov2", img_size=56),
    "DINOv2 S/14 with registers": partial(named, "vit_small_patch14_reg4_dinov2", img_size=56),
    "DINOv2 g/14": partial(named, "vit_giant_patch14_dinov2", img_size=56),
    "MAE B/16": partial(named, "vit_base_patch16_224.mae", img_size=64),
    "DINOv3 S/16": partial(named, "vit_small_patch16_dinov3"),
    "DINOv3 S/16, qkv bias": partial(named, "vit_small_patch16_dinov3_qkvb"),
    "EVA-02": partial(named, "eva02_tiny_patch14_224", img_size=56),
    "Eva without rotary positions": partial(eva_vit, use_abs_pos_emb=True),
    "Eva, bias, no class": partial(eva_vit, qkv_bias=True, class_token=False, global_pool="avg", **ROPE3),
    "Eva, norm after": partial(eva_vit, use_post_norm=True, use_abs_pos_emb=True),
    "rotary, mixed": partial(eva_vit, use_rot_pos_emb=True, rope_type="mixed", attn_type="rope"),
    "rotary, separate": partial(eva_vit, use_rot_pos_emb=True, qkv_fused=False, attn_type="rope", num_reg_tokens=2),
    "grouped queries": partial(
        eva_vit,
        num_heads=4,
        num_kv_heads=2,
        qkv_fused=False,
        attn_type="rope",
        qk_norm=True,
        norm_layer=partial(RmsNorm, eps=1e-6),
        **ROPE3,
    ),
}
REGISTERS = [name for name in FAMILIES if "registers" in name]
ANTIALIASED = [*REGISTERS, *(name for name in FAMILIES if isinstance(FAMILIES[name](), eva.Eva))]


def network(family: str) -> nn.Module:
    """The family's network, in eval mode, with every parameter moved from its initial value."""
    torch.manual_seed(3)
    model = FAMILIES[family]().eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def side_of(model: nn.Module) -> int:
    return int(model.patch_embed.patch_size[0])


def timm_resamples(monkeypatch, antialias: bool) -> None:
    """Lets timm's own forward resample learnt positions with or without antialiasing (by itself it always does)."""
    for module in (vision_transformer, deit, eva):
        monkeypatch.setattr(module, "resample_abs_pos_embed", partial(timm.layers.resample_abs_pos_embed, antialias=antialias))


def watched(model: nn.Module, pixels: torch.Tensor, monkeypatch) -> list[dict[str, torch.Tensor]]:
    """A complete forward of timm's; for each block q, k, v, q_rotary, k_rotary (B, tokens, width) and tokens."""
    caught: list[dict[str, torch.Tensor]] = [{} for _ in model.blocks]
    handles, attended, real = [], [], nn.functional.scaled_dot_product_attention
    for seen, block in zip(caught, model.blocks, strict=True):
        for name, module in (("q", block.attn.q_norm), ("k", block.attn.k_norm), ("tokens", block)):
            handles.append(module.register_forward_hook(lambda _m, _i, out, seen=seen, name=name: seen.update({name: out})))

    def spy(q, k, v, *args, **kwargs):
        attended.append({"q_rotary": q, "k_rotary": k, "v": v})
        return real(q, k, v, *args, **kwargs)

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(nn.functional, "scaled_dot_product_attention", spy)
        model.forward_features(pixels)
    for handle in handles:
        handle.remove()
    for seen, more in zip(caught, attended, strict=True):
        seen.update(more)
        heads = seen["q"].shape[1]
        for name in ("q", "k", "v", "q_rotary", "k_rotary"):
            shared = heads // seen[name].shape[1]
            seen[name] = seen[name].repeat_interleave(shared, dim=1).transpose(1, 2).flatten(2)
    return caught


@pytest.mark.parametrize("grid", [(4, 4), (5, 3)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_facet_of_every_block_is_that_of_timms_forward(family, grid, monkeypatch):
    timm_resamples(monkeypatch, antialias=family in ANTIALIASED)
    model = network(family)
    pixels = torch.randn(2, 3, grid[0] * side_of(model), grid[1] * side_of(model))
    caught, reader = watched(model, pixels, monkeypatch), VitReader(model)
    assert reader.has_cls == (model.cls_token is not None)
    for index, seen in enumerate(caught):
        facets = reader.read(pixels, index, ("q", "k", "v", "tokens", "q_rotary", "k_rotary"))
        assert facets.grid == grid
        assert facets.heads == model.blocks[index].attn.num_heads
        for name, wanted in seen.items():
            assert facets[name].patches.shape[1] == grid[0] * grid[1]
            torch.testing.assert_close(torch.cat([facets[name].prefix, facets[name].patches], dim=1), wanted)
            alone = reader.read(pixels, index - reader.depth, (name,))
            assert list(alone.values) == [name]
            assert (alone[name].patches == facets[name].patches).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_becomes_its_cls_token_or_the_mean_of_its_patches(family, monkeypatch):
    timm_resamples(monkeypatch, antialias=family in ANTIALIASED)
    model, reader = network(family), VitReader(network(family))
    pixels = torch.randn(2, 3, 3 * reader.patch, 4 * reader.patch)
    with torch.no_grad():
        features = model.forward_features(pixels)
        if model.cls_token is not None:
            wanted = model.fc_norm(features[:, 0])
        elif model.global_pool == "avg":
            wanted = model.forward_head(features, pre_logits=True)
        else:
            wanted = features[:, model.num_prefix_tokens :].mean(dim=1)
    found = reader.embed(pixels)
    assert found.shape == (2, reader.dim)
    torch.testing.assert_close(found, wanted)


def test_registers_decide_how_learnt_positions_are_resampled(monkeypatch):
    """The two kernels differ visibly, so the tests above would notice the wrong one."""
    for family in ("DINO S/16", "DINOv2 S/14 with registers"):
        model = network(family)
        pixels = torch.randn(1, 3, 7 * side_of(model), 3 * side_of(model))
        caught = []
        for antialias in (False, True):
            timm_resamples(monkeypatch, antialias)
            caught.append(watched(model, pixels, monkeypatch)[-1]["k"][:, model.num_prefix_tokens :])
        keys = VitReader(model).read(pixels)["k"].patches
        torch.testing.assert_close(keys, caught[family in ANTIALIASED])
        assert (keys - caught[family not in ANTIALIASED]).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["plain", "DINOv3 S/16", "no class", "norm after"])
def test_the_forward_stops_where_nothing_more_is_needed(family):
    model, ran = network(family), []
    for index, block in enumerate(model.blocks):
        for name in ("attn", "attn.proj", "mlp", ""):
            block.get_submodule(name).register_forward_hook(
                lambda *_, index=index, name=name: ran.append((index, name or "block"))
            )
    reader = VitReader(model)
    pixels = torch.randn(1, 3, 2 * reader.patch, 2 * reader.patch)
    for block in range(reader.depth):
        reader.read(pixels, block, ("q", "k", "v", "k_rotary"))
        assert {index for index, _ in ran} == set(range(block))
        ran.clear()
        reader.read(pixels, block, ("tokens", "k"))
        assert [index for index, name in ran if name == "block"] == list(range(block + 1))
        ran.clear()


@pytest.mark.parametrize("family", ["plain", "DINOv2 S/14 with registers", "DINOv3 S/16", "rotary, mixed", "grouped queries"])
@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.06), ("fp16", 0.008)])
def test_half_precision_is_near_and_returns_float32(family, precision, tolerance):
    exact, reader = VitReader(network(family)), VitReader(network(family), precision=precision)
    assert {parameter.dtype for parameter in reader.model.parameters()} == {
        {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    }
    pixels = torch.randn(2, 3, 5 * exact.patch, 3 * exact.patch)
    names = ("q", "k_rotary", "v", "tokens")
    wanted, found = exact.read(pixels, facets=names), reader.read(pixels, facets=names)
    pairs = [(found[name].patches, wanted[name].patches) for name in names] + [(reader.embed(pixels), exact.embed(pixels))]
    for near, true in pairs:
        assert near.dtype == torch.float32
        assert 0 < (near - true).norm() < tolerance * true.norm()


def test_overflow_in_fp16_is_an_error():
    model = network("plain")
    model.blocks[0].mlp.fc2.weight.mul_(1e5)
    with pytest.raises(StageError, match="overflow in fp16"):
        VitReader(model, precision="fp16").read(torch.randn(1, 3, 16, 16))


def test_neither_batch_nor_company_matters():
    reader = VitReader(network("DINOv3 S/16"))
    pixels = torch.randn(5, 3, 48, 80)
    together = reader.read(pixels)["k"].patches
    for index, image in enumerate(pixels):
        torch.testing.assert_close(reader.read(image[None])["k"].patches[0], together[index])


def test_weights_that_change_are_read_anew():
    """A reader may follow a network through its training: nothing of the weights is kept."""
    model = network("plain")
    reader, pixels = VitReader(model), torch.randn(1, 3, 40, 24)
    before = reader.read(pixels)["k"].patches
    model.pos_embed.mul_(2)
    assert (reader.read(pixels)["k"].patches - before).abs().max() > 1e-3


def test_what_a_reader_says_of_itself():
    reader = VitReader(network("DINOv2 S/14 with registers"), HALF)
    assert (reader.patch, reader.multiple, reader.dim, reader.heads, reader.depth) == (14, 14, 48, 3, 2)
    assert reader.normalisation is HALF
    assert reader.device == torch.device("cpu")
    assert VitReader(random_vit()).normalisation is IMAGENET


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: timm.create_model("resnet18"), "ResNet is not a Vision Transformer"),
        (partial(vit, dynamic_img_size=False), "images of one size only"),
        (partial(vit, attn_layer=DiffAttention), "queries and keys of Block cannot be read"),
        (partial(vit, block_fn=ParallelThingsBlock), "queries and keys of ParallelThingsBlock cannot be read"),
        (partial(vit, patch_size=(8, 16)), "not square"),
    ],
)
def test_networks_that_cannot_be_read_are_refused(build, message):
    with pytest.raises(WeightsError, match=message) as caught:
        VitReader(build())
    assert caught.value.hint


def test_cls_is_asked_for_by_name():
    reader = VitReader(network("no class"))
    with pytest.raises(WeightsError, match="has no CLS token") as caught:
        reader.last_block(torch.zeros(1, 3, 16, 16))
    assert "CLS" in caught.value.hint


def test_wrong_blocks_and_sizes_are_errors():
    reader = VitReader(network("plain"))
    for block in (3, -4):
        with pytest.raises(StageError, match=f"no block {block} in a network of 3"):
            reader.read(torch.zeros(1, 3, 16, 16), block)
    with pytest.raises(StageError, match="16 × 20 pixels are no multiple of the patch, 8"):
        reader.embed(torch.zeros(1, 3, 16, 20))


def test_no_gradients_are_kept():
    reader = VitReader(random_vit())
    pixels = torch.zeros(1, 3, 16, 24)
    assert not reader.last_block(pixels).keys.requires_grad
    assert not reader.embed(pixels).requires_grad
