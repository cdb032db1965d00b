import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from mdp_core.settings import step_settings
from mdp_pretrain.settings import DinoConfig


def models(model: type[BaseModel]) -> list[type[BaseModel]]:
    found = [model]
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += models(field.annotation)
    return found


def test_the_defaults_are_valid_and_every_setting_is_explained() -> None:
    DinoConfig()
    for model in models(DinoConfig):
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"views": {"scale": (0.5, 0.2)}}, "views.scale is written [smallest, largest]"),
        ({"views": {"local_scale": (0.1, 1.2)}}, "views.local_scale is a share"),
        ({"views": {"objects": {"scale": (-1, 1)}}}, "views.objects.scale"),
        ({"train": {"mask": (0.5, 0.1)}}, "train.mask"),
        ({"train": {"mask": (0, 1.5)}}, "train.mask is a share"),
        ({"train": {"ema": (0.9, 1.1)}}, "train.ema"),
        ({"train": {"betas": (0.9, 1.0)}}, "train.betas"),
        ({"train": {"weight_decay": (-0.1, 0.4)}}, "train.weight_decay"),
        ({"train": {"teacher_temperature": (0.0, 0.04)}}, "train.teacher_temperature"),
        ({"train": {"teacher_temperature": (0.01, 0.01), "centring": "sinkhorn"}}, "with sinkhorn"),
        ({"train": {"same_view": 0.5}}, "needs train.mask_view: new"),
        ({"views": {"rotation": 181}}, "rotation"),
        ({"views": {"colour": {"hue": 0.6}}}, "hue"),
        ({"train": {"batch": 1}}, "batch"),
        ({"devices": 0}, "devices"),
        ({"nonsense": 1}, "nonsense"),
        ({"init": "tiny"}, "weights are written"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as error:
        DinoConfig(**changes)
    assert words in str(error.value)


def test_objects_may_be_larger_than_their_boxes_and_ranges_may_be_points() -> None:
    config = DinoConfig(views={"objects": {"scale": (1.5, 3.0)}, "scale": (1, 1)}, train={"mask": (0, 0), "ema": (1, 1)})
    assert (config.views.objects.scale, config.views.scale, config.train.mask) == ((1.5, 3.0), (1.0, 1.0), (0.0, 0.0))
    assert DinoConfig(train={"teacher_temperature": (0.01, 0.01)}).train.teacher_temperature == (0.01, 0.01)


def test_what_makes_it_faster_is_in_no_key() -> None:
    plain = step_settings(DinoConfig(), "fit", ["fit"])
    faster = DinoConfig(memory=0, workers=9, devices=4, probe_every=7, train={"checkpoint_every": 3})
    assert step_settings(faster, "fit", ["fit"]) == plain
    assert step_settings(DinoConfig(train={"iters": 7}), "fit", ["fit"]) != plain
    assert step_settings(DinoConfig(amp="off"), "fit", ["fit"]) != plain


def test_settings_and_plugin_load_no_torch() -> None:
    code = "import sys, mdp_pretrain.settings, mdp_pretrain.plugin; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
