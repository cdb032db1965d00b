"""``mdp pretrain`` with the shipped recipe, made small."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mdp_backbones.weights import load_vit
from mdp_core.api import Context

RECIPE = Path(__file__).parents[2] / "recipes" / "pretrain-shapes.yaml"
TINY = [
    "data.size=48", "data.train_images=6", "prior.short_side=48", "pretrainer.image_side=32", "pretrainer.views.size=32",
    "pretrainer.views.local_size=16", "pretrainer.train.iters=2", "pretrainer.train.batch=4", "pretrainer.head.hidden=16",
]  # fmt: skip


@pytest.mark.slow
def test_the_recipe_of_the_built_in_weights(mdp: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    command = ["pretrain", str(RECIPE), "--no-track", "--out", "x.safetensors"]
    for change in TINY:
        command += ["--set", change]
    environment = {"OMP_NUM_THREADS": "1"}
    done = mdp(*command, "--set", "pretrainer.devices=2", env=environment)
    assert done.returncode == 0, done.stderr
    assert "weights: file:" in done.stdout
    loaded = load_vit(f"file:{tmp_path / 'x.safetensors'}", Context())
    assert loaded.reader.dim == 128 and loaded.reader.model.pos_embed.shape[1] == 17

    def last_run() -> tuple[dict[str, str], Path]:
        folder = max((tmp_path / ".mdp" / "runs").iterdir())
        return {step["id"]: step["status"] for step in json.loads((folder / "run.json").read_text())["steps"]}, folder

    statuses, folder = last_run()
    assert statuses["pretrainer.fit"] == "done"
    assert (folder / "pretrainer-curve.png").is_file()
    assert len((folder / "pretrainer-log.jsonl").read_text().splitlines()) == 2

    first = (tmp_path / "x.safetensors").read_bytes()
    again = mdp(*command, env=environment)  # one process alone: devices are in no key
    assert again.returncode == 0, again.stderr
    assert last_run()[0]["pretrainer.fit"] == "hit"
    assert (tmp_path / "x.safetensors").read_bytes() == first
