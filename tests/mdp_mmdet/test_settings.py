import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from mdp_core.settings import step_settings
from mdp_mmdet.settings import FitSettings, MaskRCNNConfig


def test_defaults_are_the_papers() -> None:
    config = MaskRCNNConfig()
    assert config.arch == "r50-c4"
    assert (config.fit.iters, config.fit.batch, config.fit.lr, config.fit.warmup) == (24_000, 16, 0.02, 100)
    assert config.fit.schedule_steps == (20_000, 22_000)
    assert config.fit.train_sides == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    assert (config.predict.side, config.predict.max_side) == (800, 1333)
    assert (config.predict.score_threshold, config.predict.nms, config.predict.max_per_image) == (0.05, 0.5, 100)


def test_freezing_follows_the_initial_weights(tmp_path: Path) -> None:
    weights = tmp_path / "moco.pth"
    weights.write_bytes(b"x")
    assert FitSettings().frozen == -1
    assert FitSettings(init=f"file:{weights}").frozen == 1
    assert FitSettings(init="timm:resnet50", frozen_stages=2).frozen == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_sides": ()}, "at least one"),
        ({"train_sides": (640, 1400)}, "beyond max_side"),
        ({"norm": "frozen", "init": "timm:resnet50", "precise_bn": 9}, "no statistics to estimate"),
        ({"norm": "frozen"}, "needs initial weights"),
        ({"frozen_stages": 1}, "freezing random weights"),
        ({"init": "file:/no/such/file.pth"}, "no such file"),
        ({"init": "builtin:resnet"}, "none, file:PATH or timm:NAME"),
        ({"iters": 0}, "greater than or equal"),
        ({"unknown": 1}, "Extra inputs"),
    ],
)
def test_mistakes_are_found(changes: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FitSettings(**changes)


def test_keys_hold_what_matters(tmp_path: Path) -> None:
    steps = ("fit", "predict")
    one, two = tmp_path / "a.pth", tmp_path / "b.pth"
    one.write_bytes(b"same")
    two.write_bytes(b"same")
    fit = {"init": f"file:{one}", "workers": 0, "checkpoint_every": 7}
    config = MaskRCNNConfig(fit=FitSettings(**fit))
    moved = MaskRCNNConfig(fit=FitSettings(init=f"file:{two}"))
    assert step_settings(config, "fit", steps) == step_settings(moved, "fit", steps)
    assert "predict" not in step_settings(config, "fit", steps)
    assert "batch" not in step_settings(config, "predict", steps)["predict"]
    two.write_bytes(b"other")
    assert step_settings(config, "fit", steps) != step_settings(moved, "fit", steps)


def test_settings_import_nothing_heavy() -> None:
    code = "import sys, mdp_mmdet.plugin, mdp_mmdet.settings; print([m for m in ('torch', 'mmengine', 'mmcv') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
