from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from mdp_core.engine.planner import make_plan
from mdp_core.engine.scan import ImageSet
from mdp_core.engine.supervision import labels_behind
from mdp_core.plugins.loader import load_plugins
from mdp_core.recipe.load import load_recipe
from mdp_core.settings import Settings, StageConfig, WeightsRef


class Inner(Settings):
    weights: WeightsRef = "timm:vit_small_patch16_224.dino"


class Config(StageConfig):
    init: WeightsRef | None = None
    embed: Inner = Inner()


class Declared(Config):
    uses_labels: ClassVar[str | None] = "boxes of the training split"


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch16_224.dino",
        "vit_base_patch14_dinov2.lvd142m",
        "vit_base_patch16_224.mae",
        "vit_small_patch16_dinov3.lvd1689m",
    ],
)
def test_self_supervised_weights_are_no_labels(name: str) -> None:
    assert labels_behind(Config(init=f"timm:{name}")) is None
    assert labels_behind(Config(init="builtin:random")) is None


@pytest.mark.parametrize("name", ["resnet50", "vit_small_patch16_224.augreg_in21k", "dinosaur_net"])
def test_other_weights_of_timm_are_named(name: str) -> None:
    assert labels_behind(Config(init=f"timm:{name}")) == f"weights timm:{name} (not known to be self-supervised)"
    nested = Config(embed=Inner(weights=f"timm:{name}"))
    assert labels_behind(nested) == f"weights timm:{name} (not known to be self-supervised)"


def test_what_a_plugin_declares_comes_first() -> None:
    assert labels_behind(Declared()) == "boxes of the training split"
    assert labels_behind(Declared(init="timm:resnet50")) == (
        "boxes of the training split; weights timm:resnet50 (not known to be self-supervised)"
    )


def test_weights_of_this_run_are_as_unlabelled_as_the_stage_that_made_them() -> None:
    own = Config(init="stage:pretrainer")
    assert labels_behind(own) is None
    assert labels_behind(own, {"prior": "boxes"}) is None
    assert labels_behind(own, {"pretrainer": "weights timm:resnet50 (not known to be self-supervised)"}) == (
        "weights stage:pretrainer (weights timm:resnet50 (not known to be self-supervised))"
    )


def test_a_plan_follows_weights_to_the_stage_that_made_them() -> None:
    tests = Path(__file__).parents[2]
    host = load_plugins([tests / "toy_method.py"])
    images = ImageSet("train", (), (), "fingerprint", None)
    stages = "pipeline={pretrainer: {use: mean}, prior: {weights: 'stage:pretrainer'}}"

    def used(*overrides: str) -> dict[str, str]:
        loaded = load_recipe(str(tests / "toy.yaml"), [stages, *overrides], host, {})
        return dict(make_plan(loaded.recipe, host, {"train": images}).labels_used)

    assert used() == {}
    labelled = "weights timm:resnet50 (not known to be self-supervised)"
    assert used("pretrainer.init=timm:resnet50") == {
        "pretrainer": labelled,
        "prior": f"weights stage:pretrainer ({labelled})",
    }


def test_a_plan_says_which_stages_use_labels() -> None:
    host = load_plugins()
    images = ImageSet("train", (), (), "fingerprint", None)
    overrides = ["detector.fit.init=timm:resnet18", "segmenter.fit.init=timm:resnet18"]
    plan = make_plan(load_recipe("quickstart", overrides, host, {}).recipe, host, {"train": images})
    assert plan.labels_used == dict.fromkeys(
        ("detector", "segmenter"), "weights timm:resnet18 (not known to be self-supervised)"
    )


STATING = '''
from typing import Annotated
import numpy as np
from mdp_core.api import *

class Config(StageConfig):
    said: Annotated[str, NoEffect] = ""
    """What labels there are."""
    def labels_used(self):
        return self.said or None

class Whole(GroupingPrior[Config]):
    Config = Config
    def mine(self, images):
        for record in images.records:
            yield Instances.from_masks(np.ones((1, record.height, record.width), bool))

@hookimpl
def mdp_register(registry):
    registry.add("prior", "stating", factory=":Whole")
'''


def test_another_statement_about_labels_is_written_down_though_no_mask_changes(
    mdp: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "stating.py").write_text(STATING)
    (tmp_path / "r.yaml").write_text(
        "name: r\ndata: {use: shapes, size: 32, train_images: 2, val_images: 2}\n"
        "pipeline: {prior: {use: stating}}\nevaluate: [instances]\n"
    )
    used = []
    for said in ("", "boxes", "boxes", "scribbles"):
        done = mdp("run", "r.yaml", "--plugin", "stating.py", "--no-track", "--set", f"prior.said={said or repr('')}")
        assert done.returncode == 0, done.stderr
        run = json.loads(
            max((tmp_path / ".mdp" / "runs").iterdir(), key=lambda p: p.stat().st_mtime).joinpath("run.json").read_text()
        )
        used.append(" ".join(run["results"]["instances"]["prior"]["protocol"]["ground_truth"]))
        statuses = {step["id"]: step["status"] for step in run["steps"]}
        assert statuses["prior.mine[eval]"] == ("done" if len(used) == 1 else "hit")
        assert statuses["prior.instances[eval]"] == ("hit" if len(used) == 3 else "done")
    assert ["prior: boxes" in text for text in used] == [False, True, True, False]
    assert "prior: scribbles" in used[-1]
