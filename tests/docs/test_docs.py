"""The docs are true: generated pages are current, the tutorial's commands run, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
Call = Callable[..., subprocess.CompletedProcess[str]]


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [p for p in PAGES if p.name.startswith("tutorial")], ids=lambda p: p.name)
def test_the_commands_of_a_tutorial_run(mdp: Call, tmp_path: Path, page: Path) -> None:
    text = page.read_text()
    for name, code in re.findall(r"```python file=(\S+)\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).write_text(code)
    commands = [
        line[2:]
        for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
        if line.startswith("$ ")
    ]
    assert commands
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "mdp"
        if arguments[0] == "run":
            arguments += ["--set", "data.train_images=6", "--set", "data.val_images=4"]
        done = mdp(*arguments)
        assert done.returncode == 0, command + done.stderr


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
