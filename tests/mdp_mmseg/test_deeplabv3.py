"""Real training through MMEngine's Runner, on scenes of coloured squares."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from mdp_core.api import Context, ImageRecord, Images, LabelMap, Silence, StageError, WeightsError
from mdp_mmseg.deeplabv3 import DeepLabV3, schedule
from mdp_mmseg.settings import DeepLabV3Config, FitSettings

COLOURS = np.array([(120, 120, 120), (220, 40, 40), (40, 40, 220)])


def _scene(index, size=64):
    rng = np.random.default_rng(index)
    labels = np.zeros((size, size), np.uint8)
    for label in (1, 2):
        side = rng.integers(22, 32)
        y, x = rng.integers(0, size - side, 2)
        labels[y : y + side, x : x + side] = label
    pixels = COLOURS[labels] + rng.integers(-20, 20, (size, size, 3))
    return pixels.astype(np.uint8), LabelMap(labels)


def _data(count):
    scenes = [_scene(i) for i in range(count)]
    records = [ImageRecord(str(i), 64, 64) for i in range(count)]
    return Images(records, lambda record: scenes[int(record.id)][0]), [labels for _, labels in scenes]


class Recorder(Silence):
    """Remembers what it hears, and may stop the training as a crash would."""

    def __init__(self, stop_at=None):
        self.stop_at, self.iterations, self.notes, self.warnings = stop_at, [], {}, []

    def progress(self, done, total, metrics):
        if done == self.stop_at:
            raise KeyboardInterrupt
        self.iterations.append((done, total, dict(metrics)))

    def note(self, name, value):
        self.notes[name] = value

    def warn(self, message):
        self.warnings.append(message)


def _fit(root: Path, *, seed=0, listener=None, data=None, **fit):
    """Trains a small network; returns its tensors and the stage."""
    settings = {
        "size": 64,
        "batch": 4,
        "iters": 6,
        "lr": 0.02,
        "frozen_stages": -1,
        "workers": 0,
        "mm_overrides": {"decode_head": {"channels": 32}},
    } | fit
    folder, work = root / "model", root / "work"
    folder.mkdir(parents=True, exist_ok=True)
    work.mkdir(exist_ok=True)
    stage = DeepLabV3(DeepLabV3Config(arch="r18", fit=settings), Context(seed=seed, listener=listener or Recorder()))
    images, label_maps = data or _data(5)
    stage.fit(images, label_maps, 2, folder, work)
    return load_file(folder / "model.safetensors"), stage, folder


def _iou(predicted, true, label):
    both = sum(int(((p.values == label) & (t.values == label)).sum()) for p, t in zip(predicted, true, strict=True))
    either = sum(int(((p.values == label) | (t.values == label)).sum()) for p, t in zip(predicted, true, strict=True))
    return both / either


def test_learns_coloured_squares(tmp_path):
    images, label_maps = _data(8)
    listener = Recorder()
    _, stage, folder = _fit(tmp_path, listener=listener, data=(images, label_maps), iters=60, lr=0.05)
    losses = [metrics["loss"] for _, _, metrics in listener.iterations]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3])  # the hardest fifth of the pixels stays hard: the squares' edges
    predicted = list(stage.predict(folder, images))
    ious = [_iou(predicted, label_maps, label) for label in range(3)]
    assert min(ious) > 0.7, ious
    unseen, true = zip(*[_scene(i) for i in range(100, 106)], strict=True)
    records = [ImageRecord(str(i), 64, 64) for i in range(6)]
    found = list(stage.predict(folder, Images(records, lambda record: unseen[int(record.id)])))
    assert min(_iou(found, true, label) for label in range(3)) > 0.6


def test_a_resumed_training_ends_as_an_undisturbed_one(tmp_path):
    straight, _, folder = _fit(tmp_path / "straight", checkpoint_every=100)
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path / "broken", checkpoint_every=3, listener=Recorder(stop_at=5))
    assert not (tmp_path / "broken/model/model.safetensors").exists()
    listener = Recorder()
    resumed, _, resumed_folder = _fit(tmp_path / "broken", checkpoint_every=3, listener=listener, workers=2)
    assert [done for done, _, _ in listener.iterations] == [4, 5, 6]
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    logs = [[json.loads(line) for line in (f / "training.jsonl").open()] for f in (folder, resumed_folder)]
    assert logs[0] == logs[1]
    assert [line["iteration"] for line in logs[0]] == [1, 2, 3, 4, 5, 6]
    other, _, _ = _fit(tmp_path / "other", seed=1, iters=1)
    assert not torch.equal(straight["backbone.conv1.weight"], other["backbone.conv1.weight"])


def test_frozen_stages_keep_the_weights_they_started_from(tmp_path):
    torch.manual_seed(5)
    weights = timm.create_model("resnet18", pretrained=False).state_dict()
    for name in weights:
        if name.endswith("running_mean"):
            weights[name] = torch.randn_like(weights[name]) * 0.1
    torch.save(weights, tmp_path / "resnet18.pth")
    listener = Recorder()
    tensors, _, _ = _fit(tmp_path, iters=2, frozen_stages=2, init=f"file:{tmp_path / 'resnet18.pth'}", listener=listener)
    assert any("resnet18.pth" in value for value in listener.notes.values())
    assert listener.warnings == []
    learned = {k: v for k, v in weights.items() if not k.startswith("fc.") and not k.endswith("num_batches_tracked")}
    changed = {name for name, value in learned.items() if not torch.equal(tensors[f"backbone.{name}"], value)}
    frozen = {name for name in learned if name.startswith(("conv1.", "bn1.", "layer1.", "layer2."))}
    assert frozen
    assert changed == learned.keys() - frozen


def test_freezing_random_weights_is_warned_of(tmp_path):
    listener = Recorder()
    _fit(tmp_path, iters=1, frozen_stages=0, listener=listener)
    assert any("random weights" in warning for warning in listener.warnings)


def test_weights_of_another_backbone_are_refused(tmp_path):
    torch.save(timm.create_model("resnet34", pretrained=False).state_dict(), tmp_path / "resnet34.pth")
    with pytest.raises(WeightsError, match="does not fit"):
        _fit(tmp_path, iters=1, init=f"file:{tmp_path / 'resnet34.pth'}")


def test_ignored_pixels_and_sixteen_bit_labels_train(tmp_path):
    images, label_maps = _data(4)
    wide = [LabelMap(np.where(m.values == 2, np.uint16(65535), m.values)) for m in label_maps]
    assert all(m.ignore == 65535 for m in wide)
    listener = Recorder()
    _, stage, folder = _fit(tmp_path, iters=2, border="ignore", data=(images, wide), listener=listener)
    assert all(np.isfinite(metrics["loss"]) for _, _, metrics in listener.iterations)
    assert [m.size for m in stage.predict(folder, images)] == [(64, 64)] * 4


def test_nothing_to_learn_is_an_error_before_any_training(tmp_path):
    images, _ = _data(3)
    with pytest.raises(StageError, match="nothing to learn"):
        _fit(tmp_path, data=(images, [LabelMap.background(64, 64)] * 3))
    assert not list((tmp_path / "work").iterdir())


def test_schedule_is_that_of_the_settings():
    made = schedule(FitSettings(epochs=4, batch=2, lr=0.5, lr_step=2, lr_gamma=0.2, weight_decay=0.01, amp="bf16"), 10)
    assert (made.iterations, made.batch, made.lr, made.steps, made.gamma) == (20, 2, 0.5, (10,), 0.2)
    assert (made.momentum, made.weight_decay, made.amp, made.warmup) == (0.9, 0.01, "bf16", 0)


def test_learning_rate_falls_once(tmp_path):
    listener = Recorder()
    _fit(tmp_path, iters=4, lr=0.01, lr_step=0.5, listener=listener)
    assert [metrics["lr"] for _, _, metrics in listener.iterations] == pytest.approx([0.01, 0.01, 0.001, 0.001])


def test_snapshots_predict_and_change_nothing(tmp_path):
    plain, _, _ = _fit(tmp_path / "plain")
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path / "kept", snapshots=2, checkpoint_every=3, listener=Recorder(stop_at=5))
    last, stage, folder = _fit(tmp_path / "kept", snapshots=2, checkpoint_every=3)
    assert all(torch.equal(value, last[name]) for name, value in plain.items())
    found = stage.snapshots(folder)
    assert list(found) == ["iteration 2", "iteration 4"]
    images, _ = _data(2)
    for path in found.values():
        assert [one.size for one in stage.predict(path, images)] == [(64, 64)] * 2
    early, late = (load_file(path / "model.safetensors")["backbone.conv1.weight"] for path in found.values())
    assert not torch.equal(early, late)
    assert not torch.equal(late, last["backbone.conv1.weight"])
    reached, _, _ = _fit(tmp_path / "short", iters=4)
    assert torch.equal(reached["backbone.conv1.weight"], late)  # the schedule of this training is flat


def test_precise_bn_changes_the_statistics_alone(tmp_path):
    plain, _, _ = _fit(tmp_path / "plain", iters=2)
    precise, _, _ = _fit(tmp_path / "precise", iters=2, precise_bn=2)
    changed = {name for name, value in plain.items() if not torch.equal(value, precise[name])}
    assert changed == {name for name in plain if name.endswith(("running_mean", "running_var"))}
