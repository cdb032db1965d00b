import numpy as np
import pytest
import timm
import torch

from mdp_backbones.resnet import ResnetReader
from mdp_core.api import Context, StageError, WeightsError
from mdp_mmengine.weights import load_published
from mdp_probe.frozen import ResnetFeatures, SegmenterFeatures, dilate, load_features
from mdp_probe.settings import LinearConfig

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def _pixels(height=64, width=48):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, height, width), dtype=np.uint8))


def _normalised(pixels):
    return (pixels.float() / 255 - MEAN[:, None, None]) / STD[:, None, None]


def _features(**settings):
    return load_features(LinearConfig(**settings), None, Context())


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_dilated_is_what_timm_builds_with_output_stride_8(arch):
    torch.manual_seed(0)
    plain, dilated = timm.create_model(arch, num_classes=0), timm.create_model(arch, num_classes=0, output_stride=8)
    dilated.load_state_dict(plain.state_dict())
    inputs = torch.randn(1, 3, 65, 80)
    with torch.no_grad():
        expected = dilated.eval().forward_features(inputs)
        dilate(plain.eval())
        assert torch.equal(plain.forward_features(inputs), expected)
    assert expected.shape[2:] == (9, 10)


def test_resnet_that_pools_cannot_be_dilated():
    model = timm.create_model("resnet26d", num_classes=0)
    with pytest.raises(StageError, match="dilated: false"):
        ResnetFeatures(ResnetReader(model), dilated=True)
    assert ResnetFeatures(ResnetReader(model), dilated=False)(_pixels(64, 64)).shape == (2, 2048, 2, 2)


def test_resnet_from_a_file(tmp_path):
    torch.manual_seed(1)
    model = timm.create_model("resnet18", num_classes=0)
    torch.save(model.state_dict(), tmp_path / "r18.pth")
    for dilated, stride in ((False, 32), (True, 8)):
        features = _features(features=f"file:{tmp_path / 'r18.pth'}", arch="resnet18", dilated=dilated)
        found = features(_pixels())
        assert found.shape == (2, features.width, 64 // stride, -(-48 // stride))
        if not dilated:
            with torch.no_grad():
                torch.testing.assert_close(found, model.eval().forward_features(_normalised(_pixels())), rtol=1e-4, atol=1e-4)


def test_vit_tokens_come_as_a_map():
    features = _features(features="builtin:tiny")
    model = features.reader.model
    rows, columns = model.patch_embed.grid_size  # the grid of its training: positions are as learnt
    pixels = _pixels(8 * rows, 8 * columns)
    found = features(pixels)
    assert (found.shape, found.dtype) == ((2, 128, rows, columns), torch.float32)
    with torch.no_grad():
        tokens = model.forward_features(features_input(features, pixels))[:, model.num_prefix_tokens :]
    for row in range(rows):
        for column in range(columns):
            torch.testing.assert_close(found[:, :, row, column], tokens[:, row * columns + column], rtol=1e-4, atol=1e-4)
    weight = torch.zeros(1, 128, 1, 1, requires_grad=True)
    torch.nn.functional.conv2d(found, weight).sum().backward()  # takes part in a training
    torch.testing.assert_close(weight.grad[0, :, 0, 0], found.sum((0, 2, 3)), rtol=1e-3, atol=1e-3)


def features_input(features, pixels):
    mean, std = (
        torch.tensor(value)[:, None, None] for value in (features.reader.normalisation.mean, features.reader.normalisation.std)
    )
    return (pixels.float() / 255 - mean) / std


def test_vit_at_a_size_that_is_no_multiple_of_its_patch_still_covers_the_image():
    features = _features(features="builtin:tiny")
    pixels = _pixels(61, 42)
    larger = torch.nn.functional.interpolate(features_input(features, pixels), (64, 48), mode="bilinear", align_corners=False)
    expected = features.reader.read(larger, facets=("tokens",))["tokens"].patches
    with torch.inference_mode():
        expected = features.reader.model.norm(expected).transpose(1, 2).reshape(2, 128, 8, 6)
    torch.testing.assert_close(features(pixels), expected)


def test_segmenters_features_are_what_its_classifier_sees(tmp_path):
    from importlib.util import module_from_spec, spec_from_file_location
    from pathlib import Path

    spec = spec_from_file_location("probe_toy", Path(__file__).with_name("toy.py"))
    toy = module_from_spec(spec)
    spec.loader.exec_module(toy)
    folder = toy.deeplab(tmp_path / "model", clusters=4)
    features = SegmenterFeatures(folder, torch.device("cpu"))
    found = features(_pixels())
    assert (found.shape, features.clusters) == ((2, 32, 8, 6), 4)
    model, _ = load_published(folder, "cpu")
    seen = []
    model.decode_head.conv_seg.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        logits = model(_normalised(_pixels()), mode="tensor")
    torch.testing.assert_close(found, seen[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(features.logits(found), logits, rtol=1e-3, atol=1e-3)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(StageError, match="none before it"):
        load_features(LinearConfig(), None, Context())
    with pytest.raises(WeightsError, match="not the folder of a trained model"):
        load_features(LinearConfig(), tmp_path, Context())
