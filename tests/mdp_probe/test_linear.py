import json
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file

from mdp_core.api import Context, ImageRecord, Images, LabelMap, StageError, WeightsError
from mdp_mmengine.scenes import IGNORE_INDEX
from mdp_probe.frozen import load_features
from mdp_probe.linear import LinearProbe, probe_loss
from mdp_probe.settings import LinearConfig

TOY = Path(__file__).with_name("toy.py")
spec = spec_from_file_location("probe_toy", TOY)
assert spec is not None
assert spec.loader is not None
toy = module_from_spec(spec)
spec.loader.exec_module(toy)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return toy.deeplab(tmp_path_factory.mktemp("segmenter"))


def _accuracy(maps, truth):
    return np.mean([(m.values == t.values).mean() for m, t in zip(maps, truth, strict=True)])


def test_loss_is_the_mean_over_pixels_that_count():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(-1, 3, (2, 8, 10))
    large = F.interpolate(logits, size=(8, 10), mode="bilinear", align_corners=False)
    terms = []
    for n in range(2):
        for y in range(8):
            for x in range(10):
                if labels[n, y, x] != IGNORE_INDEX:
                    scores = large[n, :, y, x].double()
                    terms.append(float(scores.exp().sum().log() - scores[labels[n, y, x]]))
    assert float(probe_loss(logits, labels)) == pytest.approx(np.mean(terms), rel=1e-6)
    logits.requires_grad_(True)
    nothing = probe_loss(logits, torch.full((2, 8, 10), IGNORE_INDEX))
    nothing.backward()
    assert nothing.item() == 0
    assert not logits.grad.any()


def test_training_equals_a_literal_one(tmp_path, segmenter):
    """Three steps of SGD written down, on features made once, as nothing is augmented and every image is in every batch."""
    listener = toy.Recorder()
    _, folder = toy.fit(
        tmp_path, segmenter, features="segmenter", count=4, iters=3, lr_step=0.6, listener=listener, **toy.STILL
    )
    found = load_file(folder / "probe.safetensors")
    images, truth = toy.data(4)
    features = load_features(LinearConfig(), segmenter, Context())
    with torch.no_grad():
        maps = features(torch.stack([torch.from_numpy(image.transpose(2, 0, 1).copy()) for image in images]))
    targets = torch.from_numpy(np.stack([one.values for one in truth])).long()
    start, losses = _start(tmp_path), []
    weight, bias = start["conv.weight"], start["conv.bias"]
    assert weight.std() == pytest.approx(0.01, rel=0.2)
    assert not bias.any()
    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for step in range(3):
        parameters = [weight.clone().requires_grad_(), bias.clone().requires_grad_()]
        large = F.interpolate(F.conv2d(maps, *parameters), size=(64, 64), mode="bilinear", align_corners=False)
        loss = F.cross_entropy(large, targets)
        loss.backward()
        losses.append(loss.item())
        for parameter, speed in zip(parameters, velocity, strict=True):
            speed.mul_(0.9).add_(parameter.grad + 1e-4 * parameter.data)
        rate = 0.1 if step < 2 else 0.01
        weight, bias = weight - rate * velocity[0], bias - rate * velocity[1]
    torch.testing.assert_close(found["conv.weight"], weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["conv.bias"], bias, rtol=1e-4, atol=1e-6)
    assert [metrics["loss"] for _, _, metrics in listener.calls] == pytest.approx(losses, rel=1e-4)
    assert [metrics["lr"] for _, _, metrics in listener.calls] == pytest.approx([0.1, 0.1, 0.01])


def _start(tmp_path):
    """The state before the first step, which depends on the seed and the width alone."""
    from mdp_mmengine.draws import seed_everything, seed_of
    from mdp_probe.linear import _Probe

    class Width:
        width = 32

    seed_everything(seed_of(0, "model"))
    return _Probe(Width(), 3).state_dict()


def test_the_network_keeps_every_bit(tmp_path, segmenter, monkeypatch):
    from mdp_probe import linear

    seen = []

    def spy(*arguments):
        seen.append(load_features(*arguments))
        return seen[-1]

    monkeypatch.setattr(linear, "load_features", spy)
    before = (segmenter / "model.safetensors").read_bytes()
    _, folder = toy.fit(tmp_path, segmenter, features="segmenter")
    stored = load_file(segmenter / "model.safetensors")
    after = seen[0].model.state_dict()
    assert after.keys() == {name for name in stored if ".conv_seg." not in name}
    assert all(torch.equal(stored[name], value) for name, value in after.items())
    assert not any(module.training for module in seen[0].model.modules())
    assert (segmenter / "model.safetensors").read_bytes() == before
    assert load_file(folder / "probe.safetensors").keys() == {"conv.weight", "conv.bias"}


def test_separable_classes_are_learned(tmp_path):
    stage, folder = toy.fit(tmp_path, count=12, iters=60, **toy.STILL)
    images, truth = toy.data(8, first=50)
    assert _accuracy(stage.predict(folder, None, images), truth) > 0.99


def test_images_without_true_classes_are_passed_over(tmp_path, segmenter):
    _, truth = toy.data(4)
    unknown = LabelMap(np.full((64, 64), 255, np.uint8))
    for name, missing in (("none", None), ("ignored", unknown)):
        mixed = [truth[0], missing, truth[2], truth[3]]
        listener = toy.Recorder()
        toy.fit(tmp_path / name, count=4, truth=mixed, batch=3, iters=None, epochs=2, listener=listener)
        assert [total for _, total, _ in listener.calls] == [2, 2]  # two passes over three images
        with pytest.raises(StageError, match="none of the 4 training images has true classes"):
            toy.fit(tmp_path / f"all {name}", count=4, truth=[missing] * 4)


def test_a_class_that_is_not_there_is_refused(tmp_path):
    _, truth = toy.data(4)
    truth[0].values[:] = 3
    with pytest.raises(StageError, match="label 3, but there are 2 object classes"):
        toy.fit(tmp_path, count=4, truth=truth, iters=4)


def test_killed_and_resumed_ends_with_the_same_weights(tmp_path):
    _, straight = toy.fit(tmp_path / "straight", checkpoint_every=100)
    root = tmp_path / "killed"
    arguments = json.dumps({"root": str(root), "kill": 5})
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums depend on it
    killed = subprocess.run([sys.executable, str(TOY), arguments], check=False, capture_output=True, timeout=300, env=env)
    assert killed.returncode == -9, killed.stderr.decode()
    listener = toy.Recorder()
    _, resumed = toy.fit(root, checkpoint_every=2, listener=listener)
    assert [done for done, _, _ in listener.calls] == [5, 6]
    assert (straight / "probe.safetensors").read_bytes() == (resumed / "probe.safetensors").read_bytes()
    assert (straight / "training.jsonl").read_text() == (resumed / "training.jsonl").read_text()
    _, other = toy.fit(tmp_path / "other", seed=1)
    assert (other / "probe.safetensors").read_bytes() != (straight / "probe.safetensors").read_bytes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, segmenter):
    return toy.fit(tmp_path_factory.mktemp("trained"), segmenter, features="segmenter", iters=4)[1]


def _predict(folder, model, images, **predict):
    return list(LinearProbe(LinearConfig(predict=predict), Context()).predict(folder, model, images))


SIZES = [(40, 56), (56, 40), (33, 47), (40, 56)]


@pytest.fixture(scope="module")
def photos():
    def photo(record):
        return np.random.default_rng(int(record.id)).integers(0, 256, (record.height, record.width, 3), dtype=np.uint8)

    return Images([ImageRecord(str(i), *size) for i, size in enumerate(SIZES)], photo)


def test_predictions_have_the_images_size_and_the_literal_labels(trained, segmenter, photos):
    maps = _predict(trained, segmenter, photos, probabilities=True, batch=2)
    assert [m.size for m in maps] == SIZES
    features = load_features(LinearConfig(), segmenter, Context())
    state = load_file(trained / "probe.safetensors")
    for image, found in zip(photos, maps, strict=True):
        logits = F.conv2d(
            features(torch.from_numpy(image.transpose(2, 0, 1).copy())[None]), state["conv.weight"], state["conv.bias"]
        )
        expected = F.interpolate(logits, size=image.shape[:2], mode="bilinear", align_corners=False)[0].argmax(0)
        assert (found.values == expected.numpy()).mean() > 0.999
        assert (found.probabilities.dtype, found.probabilities.shape) == (np.float16, (3, *logits.shape[2:]))
        np.testing.assert_allclose(found.probabilities, logits[0].softmax(0), atol=2e-3)


@pytest.mark.parametrize("predict", [{"size": 64}, {"size": 64, "upsample": "labels"}, {"side": 32}])
def test_other_input_sizes(trained, segmenter, photos, predict):
    maps = _predict(trained, segmenter, photos, **predict)
    assert [m.size for m in maps] == SIZES
    assert all(m.probabilities is None and m.values.max() <= 2 for m in maps)


def test_predicting_with_other_features_is_refused(trained, photos, tmp_path):
    other = toy.deeplab(tmp_path / "wide", channels=48)
    with pytest.raises(WeightsError, match="48 channels"):
        _predict(trained, other, photos)
    with pytest.raises(StageError, match="none before it"):
        _predict(trained, None, photos)
    with pytest.raises(WeightsError, match=r"no probe\.safetensors"):
        _predict(tmp_path, other, photos)
