from __future__ import annotations

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
