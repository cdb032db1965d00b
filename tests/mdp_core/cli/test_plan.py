"""``mdp plan`` as a person uses it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., subprocess.CompletedProcess[str]]
TESTS = Path(__file__).parents[2]
TOY = (str(TESTS / "toy.yaml"), "--plugin", str(TESTS / "toy_method.py"))
HEAVY = ("torch", "timm", "mlflow", "ray", "matplotlib", "mmengine", "faiss")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the toy recipe ran once."""
    home = tmp_path_factory.mktemp("done") / "home"
    call = [sys.executable, "-m", "mdp_core.cli.main", "run", *TOY, "--no-track", "--home", str(home)]
    made = subprocess.run(call, cwd=home.parent, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return home


def test_hits_and_why_the_others_are_none(mdp: Call, done: Path) -> None:
    same = mdp("plan", *TOY, "--home", str(done))
    assert same.returncode == 0, same.stderr
    assert "nothing to do: every step is in the store" in same.stdout
    assert same.stdout.count("in the store") == 18 + 1
    other = mdp("plan", *TOY, "--home", str(done), "--set", "refiner.threshold=0.1")
    (line,) = (
        line for line in other.stdout.splitlines() if "refiner.refine[train]" in line and "to do" in line and "keep" in line
    )
    assert "about" in line
    assert line.rstrip().endswith("refiner.threshold: 0.6 → 0.1")
    assert "only its inputs differ, from refiner.refine[train] on" in other.stdout
    assert "to do: 6 of 18 steps, about " in other.stdout
    assert "on cpu" in other.stdout


def test_as_json(mdp: Call, done: Path) -> None:
    made = mdp("plan", *TOY, "--home", str(done), "--set", "detector.iters=12", "--json")
    content = json.loads(made.stdout)
    steps = {s["id"]: s for s in content["steps"]}
    assert content["images"]["train"]["count"] == 12
    assert steps["prior.mine[train]"]["status"] == "hit"
    fit = steps["detector.fit"]
    assert fit["status"] == "miss"
    assert fit["changes"] == [{"setting": "detector.iters", "old": 6, "new": 12}]
    assert fit["estimated_from"]["result"] == fit["nearest"]
    assert steps["detector.predict[eval]"]["because"] == ["detector.fit"]
    assert content["seconds"] == pytest.approx(sum(s["seconds"] for s in content["steps"]), abs=1.0)
    assert content["missing"] == []


def test_a_store_that_was_copied_elsewhere_has_the_same_hits(mdp: Call, done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "store", tmp_path / "elsewhere" / "store", copy_function=shutil.copyfile)
    made = mdp("plan", *TOY, "--home", "elsewhere")
    assert "nothing to do: every step is in the store" in made.stdout
    again = mdp("run", *TOY, "--no-track", "--home", "elsewhere")
    assert "18 of 18 steps were in the store" in again.stdout


def test_nothing_heavy_is_imported_even_where_weights_are_missing(mdp: Call, tmp_path: Path) -> None:
    wanting = ["--set", "prior.weights=timm:vit_small_patch16_224.dino"]
    code = (
        "import sys\nfrom mdp_core.cli.main import app\nfrom typer.testing import CliRunner\n"
        f"done = CliRunner().invoke(app, ['plan', 'quickstart', *{wanting!r}])\nassert done.exit_code == 0, done.output\n"
        f"print(done.stdout, [m for m in {HEAVY!r} if m in sys.modules])"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub")}
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
    )
    assert made.stdout.splitlines()[-1].endswith("[]")
    assert "not here: timm:vit_small_patch16_224.dino (for prior), about 86.7 MB, licence apache-2.0" in made.stdout
    assert "mdp weights fetch timm:vit_small_patch16_224.dino" in made.stdout


def test_it_takes_no_time(mdp: Call) -> None:
    """In seconds of a processor, which other work on the machine does not change."""

    def seconds() -> float:
        before = os.times()
        assert mdp("plan", "quickstart").returncode == 0
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 2.0


def test_mistakes(mdp: Call, done: Path) -> None:
    wrong = mdp("plan", *TOY, "--set", "prior.use=brigt")
    assert wrong.returncode == 2
    assert "did you mean 'bright'" in wrong.stderr
    weights = mdp("plan", "quickstart", "--set", "prior.weights=timm:vit_small_patch16_224.dno")
    assert weights.returncode == 0
    assert "cannot be used: timm:vit_small_patch16_224.dno (for prior): timm has no weights" in weights.stdout
