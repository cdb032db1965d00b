import pytest
import torch
import torchvision

from mdp_core.api import StageError
from mdp_mmengine.models import build_model, merge
from mdp_mmseg.model import model_config
from mdp_mmseg.settings import DeepLabV3Config


def _build(arch, clusters=3, **fit):
    return build_model(model_config(DeepLabV3Config(arch=arch, fit=fit), clusters), "mmseg").eval()


@pytest.mark.parametrize(("arch", "channels"), [("r18", 512), ("r50", 2048)])
@pytest.mark.parametrize("size", [(64, 80), (65, 47)])
def test_output_stride_and_channels(arch, channels, size):
    model = _build(arch, clusters=6)
    image = torch.rand(1, 3, *size)
    expected = (-(-size[0] // 8), -(-size[1] // 8))
    with torch.no_grad():
        [features] = model.backbone(image)
        logits = model(image, mode="tensor")
    assert features.shape == (1, channels, *expected)
    assert logits.shape == (1, 7, *expected)
    assert not model.with_auxiliary_head


@pytest.mark.parametrize("arch", ["r18", "r50"])
def test_backbone_has_torchvisions_names(arch):
    theirs = getattr(torchvision.models, {"r18": "resnet18", "r50": "resnet50"}[arch])(weights=None).state_dict()
    ours = _build(arch).backbone.state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items() if not k.startswith("fc.")}


def _from_torchvision(state):
    """Renames torchvision's DeepLab-v3 for ours; its pyramid ends with the pooled branch, MMSegmentation's begins with it."""
    names = {
        "0.project.0": "bottleneck.0.conv",
        "0.project.1": "bottleneck.0.bn",
        "1": "bottleneck.2.conv",
        "2": "bottleneck.2.bn",
    }
    names |= {"0.convs.4.1": "image_pool.1.conv", "0.convs.4.2": "image_pool.1.bn", "4": "conv_seg"}
    for i in range(4):
        names |= {f"0.convs.{i}.0": f"aspp_modules.{i}.conv", f"0.convs.{i}.1": f"aspp_modules.{i}.bn"}
    renamed = {}
    for key, value in state.items():
        if key.startswith("classifier."):
            layer, _, what = key.removeprefix("classifier.").rpartition(".")
            renamed[f"decode_head.{names[layer]}.{what}"] = value
        else:
            renamed[key] = value
    projection = renamed["decode_head.bottleneck.0.conv.weight"]
    renamed["decode_head.bottleneck.0.conv.weight"] = torch.cat([projection[:, 1024:], projection[:, :1024]], dim=1)
    return renamed


def test_is_torchvisions_deeplabv3():
    torch.manual_seed(0)
    theirs = torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=4).eval()
    for module in theirs.modules():  # statistics and gains that make every layer count
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.weight.data.uniform_(0.5, 1.0)
    ours = _build("r50", clusters=3)
    ours.load_state_dict(_from_torchvision(theirs.state_dict()), strict=True)
    image = torch.randn(1, 3, 72, 88)
    with torch.no_grad():
        expected = theirs(image)["out"]
        logits = torch.nn.functional.interpolate(
            ours(image, mode="tensor"), size=(72, 88), mode="bilinear", align_corners=False
        )
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)


def test_settings_reach_the_model():
    model = _build("r18", dropout=0.25, hard_pixels=0.35, frozen_stages=1)
    assert model.decode_head.bottleneck[1].p == 0.25
    assert model.decode_head.dropout is None
    assert model.decode_head.loss_decode.fraction == 0.35
    trained = {name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith(("conv1", "bn1", "layer1")) for name in trained)
    assert any(name.startswith("layer2") for name in trained)


def test_overrides_are_merged():
    config = merge(model_config(DeepLabV3Config(arch="r18"), 2), {"decode_head": {"channels": 16}})
    assert build_model(config, "mmseg").decode_head.conv_seg.in_channels == 16
    with pytest.raises(StageError, match="no_such"):
        build_model(merge(config, {"decode_head": {"no_such": 1}}), "mmseg")
