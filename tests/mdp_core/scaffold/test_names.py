"""Names of new packages: what is allowed, what is taken, what is suggested; nothing is written after a mistake."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("MyPrior", "--kind", "prior"), "did you mean 'my-prior'?"),
        (("my_prior", "--kind", "prior"), "did you mean 'my-prior'?"),
        (("-", "--kind", "prior"), "is not a name for a package"),
        (("3d", "--kind", "prior"), "is not a name for a package"),
        (("json", "--kind", "prior"), "try json-prior"),
        (("class", "--kind", "prior"), "is a word of Python"),
        (("dino-affinity", "--kind", "prior"), "there is a prior named 'dino-affinity' already"),
        (("mdp-platform", "--kind", "prior"), "is installed"),
        (("numpy", "--kind", "prior"), "is installed"),
        (("mdp-core", "--kind", "prior"), "finds"),
        (("new", "--kind", "piror"), "did you mean 'prior'?"),
        (("new", "--kind", "executor"), "there is no template for this kind"),
        (("new",), "say --kind"),
        (("new", "--from", "dino-afinity"), "did you mean 'dino-affinity'?"),
        (("new", "--kind", "clusterer", "--from", "dino-affinity"), "'dino-affinity' is a prior"),
        (("new", "--kind", "prior", "--into", "full"), "is not empty"),
        (("new", "--kind", "prior", "--into", "file"), "is a file"),
        (("new", "--from", "dino-affinity", "--set", "weights"), "write KEY=VALUE"),
    ],
)
def test_mistakes_are_explained(mdp: Call, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    (tmp_path / "full" / "new").mkdir(parents=True)
    (tmp_path / "full" / "new" / "mine.txt").touch()
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "new").touch()
    before = sorted(tmp_path.rglob("*"))
    done = mdp("plugins", "new", *arguments)
    assert done.returncode == (2 if "--set" in arguments else 1)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_is_filled_and_next_commands_are_told(mdp: Call, tmp_path: Path) -> None:
    (tmp_path / "mdp-colours").mkdir()
    done = mdp("plugins", "new", "mdp-colours", "--kind", "prior")
    assert done.returncode == 0, done.stderr
    assert "mdp run quickstart --set prior.use=colours --until prior" in done.stdout
    for name in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        ".gitignore",
        "src/mdp_colours/plugin.py",
        "tests/test_conformance.py",
    ):
        assert (tmp_path / "mdp-colours" / name).is_file()
        assert name in done.stdout
    assert mdp("plugins", "new", "mdp-colours", "--kind", "prior").returncode == 1
