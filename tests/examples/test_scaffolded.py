"""What ``mdp plugins new`` writes passes its tests at once where it is installed, for every kind and from a plugin that is there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mdp_core.scaffold.package import TEMPLATED


@pytest.mark.slow
def test_new_packages_pass_their_tests_at_once(fresh: Any) -> None:
    started = {f"my-{name}": ("--from", name) for name in ("dino-affinity", "kmeans", "mask-rcnn", "confidence", "deeplabv3")}
    new = {**{f"new-{kind}": ("--kind", kind) for kind in TEMPLATED}, **started}
    for name, options in new.items():
        fresh.mdp("plugins", "new", name, *options)
    fresh.install(*(fresh.home / name for name in new))

    listed = json.loads(fresh.mdp("plugins", "list", "--json"))
    assert not listed["broken"]
    assert {p["name"] for p in listed["plugins"]} >= set(new)
    for name in new:
        tests = fresh.run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=fresh.home / name)
        assert " passed" in tests.stdout, tests.stdout


def test_new_packages_of_every_kind_make_a_pipeline(fresh: Any) -> None:
    for kind in TEMPLATED:
        fresh.mdp("plugins", "new", f"new-{kind}", "--kind", kind)
    fresh.install(*(fresh.home / f"new-{kind}" for kind in TEMPLATED))
    stages = "".join(f"  {kind}: {{use: new-{kind}}}\n" for kind in TEMPLATED)
    data = "{use: shapes, size: 48, train_images: 12, val_images: 4}"
    recipe = fresh.home / "toy.yaml"
    recipe.write_text(f"name: toy\nseed: 0\ndata: {data}\npipeline:\n{stages}evaluate: [clustering]\n")
    fresh.mdp("run", str(recipe), "--no-track")
    (record,) = (fresh.home / "runs").glob("*/run.json")
    assert json.loads(record.read_text())["metrics"]["segmenter.miou"] > 0
