"""The docs are true: generated pages are current, the tutorial's commands run, links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GUIDE = ROOT / "docs" / "plugins"
TOY_RECIPE = ROOT / "tests" / "toy.yaml"
Call = Callable[..., subprocess.CompletedProcess[str]]


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_tutorial_can_be_followed_as_written(fresh: Any) -> None:
    """Files are saved and commands are given in the order of the page, in a fresh environment; only the images are fewer."""
    few = ("--set", "data.train_images=6", "--set", "data.val_images=4", "--set", "data.size=96")
    text = (GUIDE / "tutorial.md").read_text()
    done: list[str] = []
    for name, code, console in re.findall(r"```(?:python file=(\S+)\n(.*?)|console\n(.*?))```", text, re.DOTALL):
        if name:
            (fresh.home / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh.home / name).write_text(code)
        for command in commands_of(console):
            program, *arguments = shlex.split(command)
            if (program, arguments[0]) == ("mdp", "run"):
                arguments += few
            assert program in ("mdp", "python")
            fresh.run(*(("-m", "mdp_core.cli.main") if program == "mdp" else ()), *arguments)
            done.append(" ".join([program, *arguments[: 1 if program == "mdp" else 2]]))
    assert done.count("mdp run") >= 4
    assert {"mdp plugins", "python -m"} <= {" ".join(command.split()[:2]) for command in done}
    shown = fresh.mdp("plugins", "list", "--json")
    (found,) = [p for p in json.loads(shown)["plugins"] if p["name"] == "contrast-prior"]
    assert found["distribution"] == "contrast-prior"


def commands_of(console: str) -> list[str]:
    """Returns the commands of a block, without the dollar."""
    return [line[2:] for line in console.splitlines() if line.startswith("$ ")]


@pytest.mark.parametrize("kind", ["prior", "clusterer", "detector", "refiner", "segmenter"])
def test_the_example_of_a_stage_runs(mdp: Call, toy: Path, tmp_path: Path, kind: str) -> None:
    """Its file is shown and checked as the page says, and takes its place in a pipeline of small methods."""
    text = (GUIDE / f"{kind}.md").read_text()
    ((name, code),) = re.findall(r"```python file=(\S+)\n(.*?)```", text, re.DOTALL)
    (tmp_path / name).write_text(code)
    commands = [command for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL) for command in commands_of(block)]
    assert [shlex.split(command)[2] for command in commands] == ["show", "check"]
    for command in commands:
        done = mdp(*shlex.split(command)[1:])
        assert done.returncode == 0, command + done.stdout + done.stderr
    (plugin,) = re.findall(rf'registry\.add\("{kind}", "(\S+)"', code)
    recipe = yaml.safe_load(TOY_RECIPE.read_text())
    recipe["pipeline"][kind] = {"use": plugin}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    done = mdp("run", "toy.yaml", "--plugin", str(toy), "--plugin", name, "--no-track")
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path / ".mdp" / "runs").glob("*/run.json")
    assert json.loads(record.read_text())["metrics"]["segmenter.miou"] > 0


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_the_readme_names_recipes_that_exist() -> None:
    for name in re.findall(r"mdp run ([a-z][\w/-]*)", (ROOT / "README.md").read_text()):
        assert (ROOT / "recipes" / f"{name}.yaml").is_file(), name


def test_all_recipes_are_valid(mdp: Call, tmp_path: Path) -> None:
    (tmp_path / "moco.pth").write_bytes(b"")
    env = {"VOC_ROOT": str(tmp_path), "COCO_ROOT": str(tmp_path), "MOCO_WEIGHTS": str(tmp_path / "moco.pth")}
    recipes = sorted(str(p) for p in (ROOT / "recipes").rglob("*.yaml"))
    done = mdp("recipe", "validate", *recipes, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no mistakes") == len(recipes) >= 4
