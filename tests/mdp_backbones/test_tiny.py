import copy

import pytest
import timm
import torch
from torch import nn

from mdp_backbones import tiny
from mdp_backbones.vit import VitReader


def network(**settings) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("mdp_vit_tiny", num_classes=0, **settings)


def pictures(count: int, height: int = 64, width: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 0.5 + 0.3


def test_timm_knows_it_and_it_is_small() -> None:
    assert timm.is_model("mdp_vit_tiny") and "mdp_vit_tiny" in timm.list_models("mdp_*")
    model = network()
    assert 0.8e6 < sum(parameter.numel() for parameter in model.parameters()) < 1e6
    assert (model.embed_dim, len(model.blocks), model.num_prefix_tokens) == (128, 4, 1)
    assert model.pos_embed.shape == (1, 65, 128)
    assert network(img_size=96).pos_embed.shape == (1, 145, 128)


def test_it_has_no_weights_in_timm_and_one_patch() -> None:
    with pytest.raises(RuntimeError, match="builtin:tiny"):
        tiny.mdp_vit_tiny(pretrained=True)
    with pytest.raises(ValueError, match="its patch is 8"):
        tiny.ConvStem(patch_size=16)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (72, 40), (24, 104), (8, 8)])
def test_the_stem_gives_a_grid_and_the_reader_reads_it(height: int, width: int) -> None:
    model = network().eval()
    pixels = pictures(2, height, width)
    assert model.patch_embed(pixels).shape == (2, height // 8, width // 8, 128)
    reader = VitReader(model)
    assert (reader.patch, reader.multiple, reader.dim, reader.heads, reader.depth) == (8, 8, 128, 4, 4)
    facets = reader.read(pixels, facets=("k", "tokens"))
    assert facets.grid == (height // 8, width // 8)
    assert facets["k"].patches.shape == (2, height * width // 64, 128) and facets["k"].prefix.shape == (2, 1, 128)
    if (height, width) == (64, 64):  # positions as they are: timm's own forward
        assert torch.allclose(reader.embed(pixels), model.forward_features(pixels)[:, 0], atol=1e-5)


def test_the_stem_is_convolutions_of_the_standardised_image() -> None:
    stem = network().patch_embed.eval()
    pixels = pictures(3, 32, 48)
    expected = []
    for image in pixels:
        spread = image.flatten().std()
        hidden = ((image - image.mean()) / (spread + 0.01))[None]
        for conv, norm in zip(stem.convs[::3], stem.convs[1::3], strict=True):
            hidden = nn.functional.conv2d(hidden, conv.weight, stride=2, padding=1)
            hidden = (hidden - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps).sqrt()
            hidden = nn.functional.gelu(hidden * norm.weight[:, None, None] + norm.bias[:, None, None])
        expected.append(torch.einsum("oc,chw->hwo", stem.proj.weight[:, :, 0, 0], hidden[0]) + stem.proj.bias)
    assert torch.allclose(stem(pixels), torch.stack(expected), atol=1e-5)


def test_contrast_and_lighting_are_no_news_and_plain_images_no_noise() -> None:
    stem = network().patch_embed.eval()
    pixels = pictures(2)
    assert torch.allclose(stem(pixels * 1.7 + 0.4), stem(pixels), atol=2e-2)
    plain = torch.full((1, 3, 32, 32), 0.7)
    noisy = plain + 1e-5 * torch.randn(plain.shape, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(stem(plain)).all()
    assert torch.allclose(stem(noisy), stem(plain), atol=1e-2)


def test_calibration_is_the_mean_over_batches_of_their_statistics() -> None:
    model = network().train()
    for _ in range(3):
        model(pictures(4, seed=9))  # statistics of before have no part in it
    momenta = [module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    batches = [pictures(count, 32, 32, seed) * (1 + seed) for seed, count in enumerate((4, 3, 2))]
    literal = copy.deepcopy(model.patch_embed)
    tiny.calibrate(model, batches)
    means, variances = [[], [], []], [[], [], []]
    for batch in batches:
        hidden = (batch - batch.mean(dim=(1, 2, 3), keepdim=True)) / (
            batch.flatten(1).std(dim=1)[:, None, None, None] + tiny.FAINTEST
        )
        for stage in range(3):
            conv, norm, act = literal.convs[3 * stage : 3 * stage + 3]
            hidden = conv(hidden)
            mean, var = hidden.mean(dim=(0, 2, 3)), hidden.var(dim=(0, 2, 3), unbiased=False)
            count = hidden.numel() / hidden.shape[1]
            means[stage].append(mean)
            variances[stage].append(var * count / (count - 1))
            hidden = (hidden - mean[:, None, None]) / (var[:, None, None] + norm.eps).sqrt()
            hidden = act(hidden * norm.weight[:, None, None] + norm.bias[:, None, None])
    for stage in range(3):
        norm = model.patch_embed.convs[3 * stage + 1]
        assert torch.allclose(norm.running_mean, torch.stack(means[stage]).mean(dim=0), atol=1e-5)
        assert torch.allclose(norm.running_var, torch.stack(variances[stage]).mean(dim=0), rtol=1e-4)
    assert not any(module.training for module in model.modules())
    assert momenta == [module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def test_calibration_leaves_other_networks_and_the_weights_alone() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tiny.calibrate(model, [])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    tiny.calibrate(model, [pictures(2)])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all("running" in name or "num_batches" in name for name in changed)
    plain = nn.Linear(3, 3)
    tiny.calibrate(plain, [pictures(1)])
    assert not plain.training
