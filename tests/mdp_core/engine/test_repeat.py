"""Comparing a run with its repetition."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mdp_core.engine import repeat
from mdp_core.engine.record import RunRecord, StepRecord
from mdp_core.errors import RunError


def step(name: str, key: str, status: str = "done", **notes: str) -> StepRecord:
    return StepRecord(name, name.split(".", maxsplit=1)[0], "prior", "mine", "bright", "train", key, status, 1.0, notes)


def record(folder: Path, **settings: Any) -> RunRecord:
    folder.mkdir(parents=True, exist_ok=True)
    environment = settings.pop("environment", {})
    found = RunRecord(folder, "toy", 7, "toy.yaml", [], {"name": "toy"}, environment, status="finished", **settings)
    found.host = "here"
    return found


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (0.25, 0.25, "equal"),
        (math.nan, math.nan, "equal"),
        (math.inf, math.inf, "equal"),
        (0.1 + 0.2, 0.3, "close"),
        (1e6, 1e6 * (1 + 5e-13), "close"),
        (1e6, 1e6 * (1 + 5e-12), "different"),
        (0.25, 0.2500001, "different"),
        (0.25, None, "different"),
        (None, 0.25, "different"),
        (0.25, math.nan, "different"),
    ],
)
def test_two_numbers(before: float | None, after: float | None, verdict: str) -> None:
    assert repeat.MetricPair("miou", before, after).verdict == verdict


@pytest.mark.parametrize(
    ("before", "after", "results", "verdict"),
    [
        ({"a": 1.0, "b": 2.0}, {"b": 2.0, "a": 1.0}, {}, "equal"),
        ({"a": 0.3}, {"a": 0.1 + 0.2}, {}, "close"),
        ({"a": 1.0, "b": 2.0}, {"a": 1.0}, {}, "different"),
        ({}, {}, {}, "nothing"),
        ({}, {}, {"prior.mine[train]": True}, "equal"),
        ({}, {}, {"prior.mine[train]": True, "clusterer.fit": False}, "different"),
        ({"a": 1.0}, {"a": 1.0}, {"clusterer.fit": False}, "equal"),
    ],
)
def test_the_verdict_is_about_metrics_and_without_them_about_files(
    tmp_path: Path, before: dict[str, float], after: dict[str, float], results: dict[str, bool], verdict: str
) -> None:
    a, b = record(tmp_path / "a", metrics=before), record(tmp_path / "b", metrics=after)
    assert repeat.compare(a, b, results).verdict == verdict


def test_keys_hits_and_steps_that_were_not_reached(tmp_path: Path) -> None:
    a = record(tmp_path / "a", steps=[step("prior.mine", "11"), step("clusterer.fit", "22"), step("detector.fit", "33")])
    b = record(tmp_path / "b", steps=[step("prior.mine", "11", "hit"), step("clusterer.fit", "44")])
    found = repeat.compare(a, b)
    assert (found.done, found.hits, found.steps) == (1, 1, 2)
    assert [str(d) for d in found.keys] == ["clusterer.fit: 22 → 44", "detector.fit: 33 → none"]


def test_what_is_different_around_it(tmp_path: Path) -> None:
    plugin = {"kind": "prior", "name": "mine", "distribution": "mine.py", "version": "", "sha256": "a" * 64, "cache_version": 1}
    before = {
        "python": "3.11.7",
        "libraries": {"torch": "2.6.0", "numpy": "2.2.6"},
        "freeze": ["torch==2.6.0", "tqdm==4.1", "gone==1.0  # editable /home/ada"],
        "git": {"commit": "1" * 40, "dirty": False},
        "plugins": [plugin],
        "device": {"cpu": "fast", "gpus": ["H200"]},
        "variables": {"OMP_NUM_THREADS": "1", "MDP_HOME": "/a"},
    }
    after = {
        "python": "3.11.7",
        "libraries": {"torch": "2.7.0", "numpy": "2.2.6"},
        "freeze": ["torch==2.7.0", "tqdm==4.2"],
        "git": {"commit": "1" * 40, "dirty": True},
        "plugins": [{**plugin, "sha256": "b" * 64}],
        "device": {"cpu": "fast", "gpus": []},
        "variables": {"MDP_HOME": "/b"},
    }
    a = record(tmp_path / "a", environment=before, steps=[step("prior.mine", "1", device="cuda")])
    b = record(tmp_path / "b", environment=after, steps=[step("prior.mine", "1", device="cpu")])
    assert [str(d) for d in repeat.surroundings(a, b)] == [
        "plugin prior:mine: mine.py sha256:aaaaaaaaaaaa, results version 1 → mine.py sha256:bbbbbbbbbbbb, results version 1",
        "torch: 2.6.0 → 2.7.0",
        "commit of the working folder: 111111111111 → 111111111111 with uncommitted changes",
        "device: gpus: H200 → none",
        "steps on prior: cuda → cpu",
        "variable OMP_NUM_THREADS: 1 → none",
        "tqdm: 4.1 → 4.2",
        "gone: 1.0  # editable /home/ada → none",
    ]
    assert not list(repeat.surroundings(a, a))


def test_a_record_of_an_older_version_can_be_compared(tmp_path: Path) -> None:
    old = record(tmp_path / "a", environment={"python": "3.11.7", "libraries": {"torch": "2.6.0"}, "git": None})
    new = record(
        tmp_path / "b", environment={"python": "3.11.7", "libraries": {"torch": "2.6.0"}, "git": None, "freeze": ["a==1"]}
    )
    assert not list(repeat.surroundings(old, new))


def test_other_images(tmp_path: Path) -> None:
    before = {
        "train": {"split": "all", "count": 4, "fingerprint": "aaa"},
        "eval": {"split": "val", "count": 2, "fingerprint": "b"},
    }
    after = {
        "train": {"split": "all", "count": 5, "fingerprint": "ccc"},
        "eval": {"split": "val", "count": 2, "fingerprint": "b"},
    }
    assert [str(d) for d in repeat.image_differences(before, after)] == [
        "images of split all (train): 4 images, fingerprint aaa → 5 images, fingerprint ccc"
    ]


def test_the_comparison_is_written(tmp_path: Path) -> None:
    a = record(tmp_path / "a", metrics={"miou": 0.5, "nan": math.nan})
    b = record(tmp_path / "b", metrics={"miou": 0.6, "nan": math.nan})
    repeat.compare(a, b).save(b.folder)
    content = json.loads((b.folder / repeat.REPETITION).read_text())
    assert content["verdict"] == "different"
    assert content["metrics"][0] == {"name": "miou", "before": 0.5, "after": 0.6}


def test_a_store_of_its_own_is_kept_only_where_it_is_wanted_or_needed(tmp_path: Path) -> None:
    original = record(tmp_path / "home" / "runs" / "one")
    home = tmp_path / "home"
    with suppress(KeyboardInterrupt), repeat.fresh_store(home, original, keep=False) as folder:
        (folder / "half").write_text("done")
        raise KeyboardInterrupt
    assert (home / "fresh" / "one" / "half").exists(), "the next call continues"
    with repeat.fresh_store(home, original, keep=False) as folder:
        assert (folder / "half").exists()
        with pytest.raises(RunError, match="another process repeats one"), repeat.fresh_store(home, original, keep=False):
            pass
    assert list((home / "fresh").iterdir()) == []
    with repeat.fresh_store(home, original, keep=True) as folder:
        (folder / "result").write_text("x")
    with pytest.raises(RunError, match="holds a repetition that was kept"), repeat.fresh_store(home, original, keep=True):
        pass
    assert (folder / "result").exists()


def test_a_record_without_settings(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no settings to repeat"):
        repeat.prepare(replace(record(tmp_path / "a"), resolved={}))
