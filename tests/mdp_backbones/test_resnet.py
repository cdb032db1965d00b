"""ResNets in every known layout, against torchvision's own forward pass; refusals."""

import runpy
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from mdp_backbones.preprocess import IMAGENET
from mdp_backbones.resnet import ResnetReader, is_resnet, load_resnet_reader
from mdp_backbones.resnet_layouts import LAYOUTS, likely_resnet, resnet_tensors
from mdp_backbones.weights import load_backbone
from mdp_core.api import Context, WeightsError

checkpoints = runpy.run_path(str(Path(__file__).parent / "resnet_checkpoints.py"))["resnet_checkpoints"]
NAMES = list(checkpoints({"fc.weight": torch.zeros(1, 1)}))
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def torchvision_resnet(name: str) -> nn.Module:
    """Random weights, and running statistics that make normalisation matter."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            module.num_batches_tracked.fill_(7)
    return model.eval()


@torch.no_grad()
def maps_of(model: nn.Module, pixels: torch.Tensor) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    hooks = [
        getattr(model, f"layer{index}").register_forward_hook(lambda _module, _inputs, output: found.append(output.clone()))
        for index in (1, 2, 3, 4)
    ]
    model(pixels)
    for hook in hooks:
        hook.remove()
    return found


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    return torchvision_resnet("resnet18")


@pytest.fixture(scope="module")
def resnet50() -> nn.Module:
    return torchvision_resnet("resnet50")


def images(height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
def test_each_layout_loads_and_embeds_as_torchvision_does(tmp_path, resnet18, name):
    content, red = checkpoints(resnet18.state_dict())[name]
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(content, path)
    reader = load_backbone(f"file:{path}", Context(), arch="resnet18").reader
    assert isinstance(reader, ResnetReader)
    torch.testing.assert_close(reader.embed(images()), maps_of(resnet18, images())[-1].mean(dim=(2, 3)), **CLOSE)
    assert reader.normalisation.std == (red, 0.224, 0.225)
    assert reader.normalisation.mean == IMAGENET.mean
    assert not reader.model.training
    assert (reader.multiple, reader.dim, reader.device) == (1, 512, torch.device("cpu"))


@pytest.mark.parametrize("name", ["MoCo v2", "MoCo v3", "InfoMin", "torchvision"])
def test_bottlenecks_of_a_resnet50_have_their_stride_in_the_3x3_convolution(resnet50, name):
    content, _ = checkpoints(resnet50.state_dict())[name]
    reader = load_resnet_reader(content, "resnet50", name)
    found, wanted = reader.stages(images(75, 50)), maps_of(resnet50, images(75, 50))
    assert [tuple(one.shape[1:]) for one in found] == [(256, 19, 13), (512, 10, 7), (1024, 5, 4), (2048, 3, 2)]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def test_swavs_own_padding_is_the_same_network(resnet50):
    """SwAV pads by 1 before a first convolution that pads by 2, where torchvision's pads by 3."""
    content, _ = checkpoints(resnet50.state_dict())["SwAV"]
    reader = load_resnet_reader(content, "resnet50", "swav.pth")
    published = torchvision_resnet("resnet50")
    published.conv1.padding = (2, 2)
    padded = nn.functional.pad(images(65, 47), (1, 1, 1, 1))
    torch.testing.assert_close(reader.stages(images(65, 47))[-1], maps_of(published, padded)[-1], **CLOSE)


def test_stages_stop_where_nothing_more_is_wanted(resnet18):
    reader = load_resnet_reader(resnet18.state_dict(), "resnet18", "here")
    ran: list[int] = []
    for index in (1, 2, 3, 4):
        getattr(reader.model, f"layer{index}").register_forward_hook(lambda *_, index=index: ran.append(index))
    assert len(reader.stages(images(), last=3)) == 2
    assert ran == [1, 2]
    assert not any(name.startswith("fc.") for name in reader.model.state_dict())


def test_maps_are_the_same_one_image_at_a_time(resnet18):
    reader = load_resnet_reader(resnet18.state_dict(), "resnet18", "here")
    together = reader.embed(images())
    torch.testing.assert_close(together, torch.cat([reader.embed(one[None]) for one in images()]), **CLOSE)
    torch.testing.assert_close(together, reader.stages(images())[-1].mean(dim=(2, 3)), **CLOSE)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close_and_returns_float32(resnet18, precision):
    exact = load_resnet_reader(resnet18.state_dict(), "resnet18", "here").embed(images())
    half = load_resnet_reader(resnet18.state_dict(), "resnet18", "here", precision=precision).embed(images())
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    assert nn.functional.cosine_similarity(half, exact).min() > 0.999


def test_loading_leaves_the_callers_random_numbers_alone(resnet18):
    torch.manual_seed(3)
    wanted = torch.rand(3)
    torch.manual_seed(3)
    load_resnet_reader(resnet18.state_dict(), "resnet18", "here")
    assert torch.equal(torch.rand(3), wanted)


def test_half_precision_files_and_safetensors(tmp_path, resnet18):
    half = {name: value.half() if value.is_floating_point() else value for name, value in resnet18.state_dict().items()}
    save_file(half, tmp_path / "r18.safetensors")
    reader = load_backbone(f"file:{tmp_path / 'r18.safetensors'}", Context(), arch="resnet18").reader
    assert reader.model.conv1.weight.dtype == torch.float32
    assert torch.equal(reader.model.conv1.weight, half["conv1.weight"].float())


def test_the_wrong_depth_is_refused_and_the_right_one_named(resnet18):
    content, _ = checkpoints(resnet18.state_dict())["MoCo v2"]
    with pytest.raises(
        WeightsError, match=r"moco.pth \(MoCo v1, v2\) with arch: resnet50 does not fit.*missing.*misshapen"
    ) as caught:
        load_resnet_reader(content, "resnet50", "moco.pth")
    assert "resnet18" in caught.value.hint


def test_one_missing_tensor_is_refused(resnet18):
    state = dict(resnet18.state_dict())
    del state["layer2.0.bn1.running_var"]
    with pytest.raises(WeightsError, match=r"1 missing \(layer2.0.bn1.running_var\)"):
        load_resnet_reader(state, "resnet18", "here")


@pytest.mark.parametrize(
    ("name", "extra"),
    [("MoCo v2", "module.decoder.weight"), ("InfoMin", "module.encoder2.conv1.weight"), ("DINO", "decoder.weight")],
)
def test_unknown_tensors_are_named(resnet18, name, extra):
    content, _ = checkpoints(resnet18.state_dict())[name]
    content.get("state_dict", content.get("model", content))[extra] = torch.zeros(1)
    with pytest.raises(WeightsError, match=extra.removeprefix("module.")):
        load_resnet_reader(content, "resnet18", "here")


@pytest.mark.parametrize("content", [{}, {"state_dict": {"cls_token": torch.zeros(1)}}, {"stem.conv1.weight": torch.zeros(1)}])
def test_a_file_without_a_resnet_says_what_is_known(content):
    with pytest.raises(WeightsError, match="no ResNet is in it") as caught:
        resnet_tensors(content, "here")
    assert all(layout.name in caught.value.hint for layout in LAYOUTS)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code ran')",))


def test_missing_cut_and_malicious_files(tmp_path, resnet18):
    whole, cut, evil = tmp_path / "whole.pth", tmp_path / "cut.pth", tmp_path / "evil.pth"
    torch.save(resnet18.state_dict(), whole)
    cut.write_bytes(whole.read_bytes()[:100_000])
    torch.save({"state_dict": resnet18.state_dict(), "lemniscate": Evil()}, evil)
    for path in (tmp_path / "none.pth", cut, evil):
        with pytest.raises(WeightsError, match=path.name):
            load_backbone(f"file:{path}", Context(), arch="resnet18")


def test_only_resnets_are_read():
    with pytest.raises(WeightsError, match="VisionTransformer is not a ResNet"):
        ResnetReader(timm.create_model("vit_tiny_patch16_224", num_classes=0))


def test_which_architectures_are_resnets():
    assert all(map(is_resnet, ("resnet18", "resnet50.a1_in1k", "wide_resnet50_2", "resnext50_32x4d")))
    assert not any(map(is_resnet, ("vit_small_patch16_224.dino", "resnet50_clip.openai", "resnet_of_dreams")))


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d"],
)
def test_the_likely_architecture(name):
    with torch.device("meta"):
        state = torchvision.models.get_model(name, weights=None).state_dict()
    assert likely_resnet(state) == (None if name.startswith("resnext") else name)
