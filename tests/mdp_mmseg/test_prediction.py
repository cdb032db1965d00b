import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mdp_core.api import Context, ImageRecord, Images
from mdp_mmengine.models import build_model
from mdp_mmengine.prediction import batches, input_size, one_ahead
from mdp_mmengine.settings import MapPrediction
from mdp_mmengine.weights import Published, publish
from mdp_mmseg.deeplabv3 import DeepLabV3
from mdp_mmseg.model import IMAGENET_MEAN, IMAGENET_STD, model_config
from mdp_mmseg.settings import DeepLabV3Config

SIZES = [(40, 56), (56, 40), (40, 56), (33, 47), (40, 56), (9, 5), (56, 40)]


def _photo(index, size):
    return np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def images():
    records = [ImageRecord(str(i), *size) for i, size in enumerate(SIZES)]
    return Images(records, lambda record: _photo(int(record.id), (record.height, record.width)))


def _publish(folder, clusters):
    """A network with random weights whose answers differ from pixel to pixel."""
    torch.manual_seed(0)
    config = model_config(DeepLabV3Config(arch="r18"), clusters)
    model = build_model(config, "mmseg", initialise=True)
    head = model.decode_head.conv_seg
    torch.nn.init.normal_(head.weight)
    with torch.no_grad():
        head.bias -= _logits(model.eval(), _photo(99, (56, 56))).mean((1, 2))  # so that no label wins everywhere
    publish(folder, model, Published("mmseg", config, {"clusters": clusters}))
    return model


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return folder, _publish(folder, 4)


def _predict(folder, images, **predict):
    return list(DeepLabV3(DeepLabV3Config(arch="r18", predict=predict), Context()).predict(folder, images))


def _logits(model, pixels):
    """The network's output, float32 (C + 1, h, w), with the normalisation written out."""
    mean, std = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
    inputs = torch.from_numpy(((pixels.astype(np.float32) - mean) / std).transpose(2, 0, 1))[None]
    with torch.no_grad():
        return model(inputs, mode="tensor")[0]


def _bilinear(logits, size):
    return torch.nn.functional.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]


def _agreement(maps, expected):
    return np.mean(np.concatenate([(m.values == e).ravel() for m, e in zip(maps, expected, strict=True)]))


def test_every_map_has_its_images_size_and_the_literal_labels(trained, images):
    folder, model = trained
    maps = _predict(folder, images, batch=2)
    assert [m.size for m in maps] == SIZES
    assert all(m.values.dtype == np.uint8 and m.probabilities is None for m in maps)
    assert len(np.unique(np.concatenate([m.values.ravel() for m in maps]))) > 2
    expected = [_bilinear(_logits(model, images.read(i)), size).argmax(0).numpy() for i, size in enumerate(SIZES)]
    assert _agreement(maps, expected) > 0.999


@pytest.mark.parametrize("upsample", ["logits", "labels"])
def test_squashed_to_a_square(trained, images, upsample):  # an odd side: no pixel centre falls on the border of two
    folder, model = trained
    maps = _predict(folder, images, size=67, upsample=upsample)
    expected = []
    for i, (height, width) in enumerate(SIZES):
        logits = _logits(model, cv2.resize(images.read(i), (67, 67), interpolation=cv2.INTER_CUBIC))
        if upsample == "logits":
            expected.append(_bilinear(logits, (height, width)).argmax(0).numpy())
        else:
            labels = _bilinear(logits, (67, 67)).argmax(0).numpy()
            rows = ((np.arange(height) + 0.5) * 67 / height).astype(int)
            columns = ((np.arange(width) + 0.5) * 67 / width).astype(int)
            expected.append(labels[np.ix_(rows, columns)])
    assert [m.size for m in maps] == SIZES
    assert _agreement(maps, expected) > 0.995


def test_batches_change_nothing(trained, images):
    alone = _predict(trained[0], images, batch=1)
    together = _predict(trained[0], images, batch=8)
    assert _agreement(together, [m.values for m in alone]) > 0.999


def test_probabilities(trained, images):
    folder, model = trained
    maps = _predict(folder, images, probabilities=True)
    for i, (height, width) in enumerate(SIZES):
        probabilities = maps[i].probabilities
        assert (probabilities.dtype, probabilities.shape) == (np.float16, (5, -(-height // 8), -(-width // 8)))
        np.testing.assert_allclose(probabilities.astype(np.float32).sum(0), 1, atol=2e-3)
        np.testing.assert_allclose(probabilities, _logits(model, images.read(i)).softmax(0), atol=2e-3)


def test_many_clusters_need_sixteen_bits(tmp_path, images):
    _publish(tmp_path, 300)
    [label_map] = _predict(tmp_path, images.subset([0]))
    assert label_map.values.dtype == np.uint16
    assert label_map.values.max() > 255


def test_no_images(trained, images):
    assert _predict(trained[0], images.subset([])) == []


@pytest.mark.parametrize(
    ("settings", "image", "expected"),
    [
        ({}, (375, 500), (375, 500)),
        ({"size": 512}, (375, 500), (512, 512)),
        ({"side": 512}, (375, 500), (375, 500)),
        ({"side": 300}, (375, 500), (300, 400)),
        ({"side": 300}, (3000, 1500), (600, 300)),
    ],
)
def test_input_size(settings, image, expected):
    assert input_size(image, MapPrediction(**settings)) == expected


@given(st.lists(st.sampled_from([(4, 4), (4, 6), (6, 4)]), max_size=60), st.integers(1, 5))
def test_batches_hold_every_image_once_and_one_size_each(sizes, batch):
    records = [ImageRecord(str(i), *size) for i, size in enumerate(sizes)]
    made = list(batches(records, MapPrediction(batch=batch)))
    assert sorted(index for indices in made for index in indices) == list(range(len(sizes)))
    assert all(1 <= len(indices) <= batch and len({sizes[i] for i in indices}) == 1 for indices in made)
    windows = [{index // (8 * batch) for index in indices} for indices in made]
    assert [min(window) for window in windows] == sorted(max(window) for window in windows)


def test_one_ahead_keeps_order_and_hands_on_errors():
    loaded = []

    def load(item):
        loaded.append(item)
        if item == 3:
            raise ValueError("three")
        return item * 10

    assert list(one_ahead(iter([1, 2]), load)) == [(1, 10), (2, 20)]
    with pytest.raises(ValueError, match="three"):
        list(one_ahead(iter([1, 3, 4]), load))
    assert list(one_ahead(iter([]), load)) == []
