"""The package of a third party is installed into a fresh environment, tested, and used in a recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[2] / "examples" / "mdp-example-prior"
NAME = "prior:example-prior"


def test_the_example_works_where_it_is_installed(fresh: Any, tmp_path: Path) -> None:
    assert not any(p["name"] == "example-prior" for p in json.loads(fresh.mdp("plugins", "list", "--json"))["plugins"])
    package = shutil.copytree(EXAMPLE, tmp_path / EXAMPLE.name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    fresh.install(package)

    listed = json.loads(fresh.mdp("plugins", "list", "--json"))
    found = [p for p in listed["plugins"] if p["name"] == "example-prior"]
    assert [(p["kind"], p["distribution"], p["version"]) for p in found] == [("prior", "mdp-example-prior", "0.1.0")]
    assert not listed["broken"]
    assert not listed["conflicts"]
    assert "stands out less" in fresh.mdp("plugins", "show", NAME)
    fresh.mdp("plugins", "check", NAME)

    shutil.rmtree(package / "src")  # its tests must find what is installed
    tests = fresh.run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=package).stdout
    assert " passed" in tests
    assert " failed" not in tests

    sizes = ("--set", "data.train_images=4", "--set", "data.val_images=2", "--set", "data.size=96")
    printed = fresh.mdp("run", str(package / "recipe.yaml"), *sizes, "--until", "prior", "--no-track")
    (record,) = (fresh.home / "runs").glob("*/run.json")
    run = json.loads(record.read_text())
    assert run["status"] == "finished", printed
    assert run["metrics"]["prior.corloc"] > 0
