import importlib
import subprocess
import sys

import pytest
from pydantic import ValidationError

from mdp_core.settings import step_settings, weight_refs
from mdp_probe.settings import KnnConfig, LinearConfig

STEPS = ("fit", "predict")


def test_defaults_are_the_papers():
    config = LinearConfig()
    fit = config.fit
    assert (fit.epochs, fit.batch, fit.lr, fit.lr_step, fit.lr_gamma, fit.momentum, fit.weight_decay) == (
        45,
        24,
        0.1,
        25,
        0.1,
        0.9,
        1e-4,
    )
    total = fit.length(10_582)
    assert total == round(45 * 10_582 / 24)
    assert fit.drop_at(total) == round(25 * 10_582 / 24)
    assert config.uses_labels


def test_what_the_plan_reads():
    assert LinearConfig().reads_segmenter
    assert not LinearConfig(features="builtin:tiny").reads_segmenter
    assert not LinearConfig(features="stage:pretrainer").reads_segmenter
    assert KnnConfig(features="builtin:tiny").reads_segmenter  # its regions are the segmenter's
    assert not LinearConfig().keeps_probabilities
    assert LinearConfig(predict={"probabilities": True}).keeps_probabilities


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"features": "segmentor"}, "features are segmenter, or weights"),
        ({"features": "file:/nowhere/moco.pth"}, "no such file"),
        ({"arch": "resnet50"}, "remove arch"),
        ({"fit": {"scale": (1.2, 0.8)}}, "no range"),
        ({"predict": {"size": 64, "side": 64}}, "exclude"),
    ],
)
def test_mistakes_are_refused(wrong, says):
    with pytest.raises(ValidationError, match=says):
        LinearConfig(**wrong)


def test_keys(tmp_path):
    weights = tmp_path / "moco.pth"
    weights.write_bytes(b"x")
    config = LinearConfig(features=f"file:{weights}", arch="resnet50")
    fit, predict = (step_settings(config, step, STEPS) for step in STEPS)
    assert fit["features"] == predict["features"]
    assert fit["features"].startswith("file-sha256:")
    assert list(weight_refs(config)) == [f"file:{weights}"]
    assert "predict" not in fit
    assert not {"workers", "checkpoint_every"} & set(fit["fit"])
    assert "batch" not in predict["predict"]
    staged = LinearConfig(features="stage:dino")
    assert step_settings(staged, "fit", STEPS, lambda stage: f"key of {stage}")["features"] == "stage-key:key of dino"
    assert step_settings(LinearConfig(), "fit", STEPS)["features"] == "segmenter"
    knn = [step_settings(KnnConfig(), step, STEPS) for step in STEPS]
    assert knn[0] == knn[1]
    assert "batch" not in knn[0]["images"]


def test_plugin_and_settings_import_nothing_heavy():
    code = "import sys, mdp_probe.plugin, mdp_probe.settings; sys.exit(bool({'torch', 'mmengine', 'cv2', 'timm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_registers_both_probes():
    from mdp_probe.plugin import mdp_register

    added = {}

    class Recorder:
        def add(self, kind, name, *, factory, config=None, summary="", api=1):
            added[kind, name] = factory, config

    mdp_register(Recorder())
    assert added.keys() == {("probe", "linear"), ("probe", "knn")}
    for factory, config in added.values():
        stage, settings = (getattr(importlib.import_module(m), n) for m, n in (text.split(":") for text in (factory, config)))
        assert stage.Config is settings
