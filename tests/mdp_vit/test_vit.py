"""Features against timm's own complete forward pass."""

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from mdp_core.api import WeightsError
from mdp_vit.random_vit import random_vit
from mdp_vit.vit import VitFeatures, interpolate_positions


def small(**settings) -> VisionTransformer:
    torch.manual_seed(3)
    defaults = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 0}
    model = VisionTransformer(**{**defaults, "dynamic_img_size": True, **settings}).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # no bias, norm or token may be trivial
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


VARIANTS = {
    "plain": {},
    "no qkv bias": {"qkv_bias": False},
    "qk norm": {"qk_norm": True},
    "registers": {"reg_tokens": 2},
    "registers, class not embedded": {"reg_tokens": 2, "no_embed_class": True},
    "pre norm": {"pre_norm": True},
    "layer scale": {"init_values": 0.1},
    "one block": {"depth": 1},
    "no positions": {"pos_embed": "none"},
}


def hooked(model: VisionTransformer, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """q and k of the last block as a complete forward computes them, and the final CLS token."""
    caught: dict[str, torch.Tensor] = {}
    attention = model.blocks[-1].attn
    handles = [
        attention.q_norm.register_forward_hook(lambda _m, _i, out: caught.update(q=out)),
        attention.k_norm.register_forward_hook(lambda _m, _i, out: caught.update(k=out)),
    ]
    with torch.no_grad():
        caught["cls"] = model.forward_features(pixels)[:, 0]
    for handle in handles:
        handle.remove()
    return caught


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_keys_query_and_cls_are_those_of_a_complete_forward(settings):
    model = small(**settings)
    pixels = torch.randn(2, 3, 32, 32)
    caught, features = hooked(model, pixels), VitFeatures(model)
    block = features.last_block(pixels)
    prefix = model.num_prefix_tokens
    torch.testing.assert_close(block.keys, caught["k"][:, :, prefix:].transpose(1, 2).flatten(2))
    torch.testing.assert_close(block.query, caught["q"][:, :, 0].flatten(1))
    torch.testing.assert_close(features.cls(pixels), caught["cls"])
    assert block.grid == (4, 4)
    assert block.heads == 3


def test_dino_small_at_its_native_size():
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224.dino", num_classes=0, dynamic_img_size=True).eval()
    pixels = torch.randn(1, 3, 224, 224)
    caught, block = hooked(model, pixels), VitFeatures(model).last_block(pixels)
    torch.testing.assert_close(block.keys, caught["k"][:, :, 1:].transpose(1, 2).flatten(2))
    torch.testing.assert_close(block.query, caught["q"][:, :, 0].flatten(1))


@pytest.mark.parametrize("prefix", [{}, {"reg_tokens": 2, "no_embed_class": True}])
def test_other_sizes_equal_a_model_built_for_that_size(prefix):
    model = small(**prefix)
    other = small(img_size=(48, 24), **prefix)
    state = model.state_dict()
    first = 0 if model.no_embed_class else model.num_prefix_tokens
    positions = model.pos_embed[:, first:]
    state["pos_embed"] = torch.cat([model.pos_embed[:, :first], interpolate_positions(positions, (4, 4), (6, 3))], dim=1)
    other.load_state_dict(state)
    pixels = torch.randn(2, 3, 48, 24)
    features = VitFeatures(model)
    for _ in range(2):  # the second time from the cache
        block = features.last_block(pixels)
    assert block.grid == (6, 3)
    caught = hooked(other, pixels)
    torch.testing.assert_close(block.keys, caught["k"][:, :, model.num_prefix_tokens :].transpose(1, 2).flatten(2))
    torch.testing.assert_close(features.cls(pixels), caught["cls"])


def test_positions_at_the_native_size_are_untouched():
    positions = torch.randn(1, 12, 5)
    assert interpolate_positions(positions, (3, 4), (3, 4)) is positions


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75, as the bicubic interpolation of torch has it."""
    x, a = abs(distance), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


@pytest.mark.parametrize(("native", "grid"), [((3, 4), (7, 5)), ((6, 6), (2, 9)), ((1, 3), (4, 4))])
def test_positions_are_interpolated_bicubically(native, grid):
    positions = torch.randn(1, native[0] * native[1], 2, dtype=torch.float64)
    resized = interpolate_positions(positions, native, grid).reshape(*grid, 2)
    image = positions.reshape(*native, 2)
    for row in range(grid[0]):
        for column in range(grid[1]):
            y, x = (row + 0.5) * native[0] / grid[0] - 0.5, (column + 0.5) * native[1] / grid[1] - 0.5
            wanted = torch.zeros(2, dtype=torch.float64)
            for j in range(int(y // 1) - 1, int(y // 1) + 3):
                for i in range(int(x // 1) - 1, int(x // 1) + 3):
                    pixel = image[min(max(j, 0), native[0] - 1), min(max(i, 0), native[1] - 1)]
                    wanted += cubic(y - j) * cubic(x - i) * pixel
            torch.testing.assert_close(resized[row, column], wanted)


def test_a_network_that_is_no_vit_is_refused():
    with pytest.raises(WeightsError, match="ResNet is not a Vision Transformer"):
        VitFeatures(timm.create_model("resnet18"))
    with pytest.raises(WeightsError, match="CLS token"):
        VitFeatures(small(class_token=False, global_pool="avg"))


def test_no_gradients_are_kept():
    features = VitFeatures(random_vit())
    assert not features.last_block(torch.zeros(1, 3, 16, 24)).keys.requires_grad
