import subprocess
import sys

import pytest
from pydantic import ValidationError

from mdp_core.settings import step_settings
from mdp_mmengine.settings import MapPrediction
from mdp_mmseg.settings import DeepLabV3Config, FitSettings

STEPS = ("fit", "predict")


def test_defaults_are_the_papers():
    fit = DeepLabV3Config().fit
    assert (fit.epochs, fit.batch, fit.lr, fit.momentum, fit.weight_decay) == (45, 16, 0.002, 0.9, 1e-4)
    assert (fit.lr_step, fit.lr_gamma, fit.hard_pixels, fit.frozen_stages) == (40, 0.1, 0.2, 2)
    assert DeepLabV3Config().predict.size is None
    assert DeepLabV3Config().arch == "r50"


def test_length_and_drop_on_pascal():
    fit = FitSettings()
    assert fit.length(10582) == round(45 * 10582 / 16)
    assert fit.drop_at(fit.length(10582)) == pytest.approx(40 * 10582 / 16, abs=1)


@pytest.mark.parametrize(
    ("settings", "length", "drop"),
    [
        ({"epochs": 45, "iters": 90}, 90, 80),
        ({"epochs": 10, "lr_step": 5, "batch": 4}, 50, 25),
        ({"epochs": 10, "batch": 4}, 50, None),
        ({"epochs": 10, "lr_step": 0.5, "batch": 4}, 50, 25),
        ({"iters": 7, "lr_step": 0.01}, 7, 1),
        ({"iters": 1}, 1, None),
        ({"epochs": 1, "batch": 64}, 1, None),
    ],
)
def test_length_and_drop(settings, length, drop):
    fit = FitSettings(**settings)
    assert fit.length(20) == length
    assert fit.drop_at(length) == drop


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": 1},
        {"scale": (1.2, 0.8)},
        {"scale": (0, 1)},
        {"rotate": (5, -5)},
        {"hard_pixels": 0},
        {"hard_pixels": 1.1},
        {"init": "resnet18"},
        {"init": "file:/no/such/file.pth"},
        {"frozen_stages": 5},
        {"unknown": 1},
    ],
)
def test_mistakes_are_refused(wrong):
    with pytest.raises(ValidationError):
        FitSettings(**wrong)


def test_size_and_side_exclude_each_other():
    with pytest.raises(ValidationError, match="exclude"):
        MapPrediction(size=512, side=512)


def test_the_key_of_a_step_holds_what_the_step_depends_on(tmp_path):
    weights = tmp_path / "a.pth"
    weights.write_bytes(b"x")
    config = DeepLabV3Config(fit={"init": f"file:{weights}"})
    fit = step_settings(config, "fit", STEPS)
    assert fit["fit"]["init"].startswith("file-sha256:")
    assert "predict" not in fit
    assert not {"workers", "checkpoint_every"} & set(fit["fit"])
    assert {"mm_overrides", "hard_pixels", "amp"} <= set(fit["fit"])
    predict = step_settings(config, "predict", STEPS)
    assert set(predict) == {"arch", "checkpoint", "predict"}
    assert "batch" not in predict["predict"]
    assert step_settings(DeepLabV3Config(fit={"init": None}), "fit", STEPS)["fit"]["init"] == "none"


def test_settings_and_plugin_import_nothing_heavy():
    code = "import sys, mdp_mmseg.plugin, mdp_mmseg.settings; sys.exit(bool({'torch', 'mmseg', 'mmengine', 'cv2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_registers_the_segmenter():
    import importlib

    from mdp_mmseg.plugin import mdp_register

    added = []

    class Recorder:
        def add(self, kind, name, *, factory, config=None, summary="", api=1):
            added.append((kind, name, factory, config))

    mdp_register(Recorder())
    [(kind, name, factory, config)] = added
    assert (kind, name) == ("segmenter", "deeplabv3")
    module, _, attribute = factory.partition(":")
    stage = getattr(importlib.import_module(module), attribute)
    module, _, attribute = config.partition(":")
    assert stage.Config is getattr(importlib.import_module(module), attribute)


def test_what_the_plan_reads_of_snapshots_and_probabilities():
    plain = DeepLabV3Config()
    assert (plain.checkpoint, plain.keeps_snapshots, plain.keeps_probabilities) == ("last", False, False)
    kept = DeepLabV3Config(checkpoint="best-on-labels", fit={"snapshots": 8}, predict={"probabilities": True})
    assert (kept.keeps_snapshots, kept.keeps_probabilities) == (True, True)
    with pytest.raises(ValidationError, match=r"set fit\.snapshots"):
        DeepLabV3Config(checkpoint="best-on-labels")
