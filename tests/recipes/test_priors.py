"""Any prior can stand in the quickstart's, with no other change."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mdp_core.plugins.loader import load_plugins
from mdp_core.recipe.load import load_recipe

Call = Callable[..., subprocess.CompletedProcess[str]]
NEEDS = {"mask-folder": "masks of another program"}
"""Priors that cannot do without settings of their own, and why."""
PRIORS = sorted(set(load_plugins([]).names("prior")) - set(NEEDS))


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_takes_the_place_of_the_quickstarts(mdp: Call, tmp_path: Path, name: str) -> None:
    small = [arg for setting in ("train_images=5", "val_images=8") for arg in ("--set", f"data.{setting}")]
    done = mdp("run", "quickstart", "--set", f"pipeline.prior.use={name}", *small, "--until", "prior", "--no-track")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    record = json.loads(next((tmp_path / ".mdp" / "runs").glob("*/run.json")).read_text())
    assert record["metrics"]["prior.mean_best_iou"] > 0, "it finds something of the generated objects"


@pytest.mark.parametrize("name", PRIORS)
def test_priors_on_a_network_keep_the_recipes(name: str) -> None:
    host = load_plugins([])
    prior = load_recipe("quickstart", [f"prior.use={name}"], host, {}).recipe.pipeline["prior"].config
    for setting, value in {"weights": "builtin:tiny", "short_side": 256, "centre_keys": True}.items():
        assert getattr(prior, setting, value) == value
