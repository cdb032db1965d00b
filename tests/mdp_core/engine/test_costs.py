"""What stages cost, from the records of their steps and in a real run."""

from __future__ import annotations

import json
import mmap
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mdp_core.engine.costs import begin_peak, costs, peak_memory
from mdp_core.engine.record import StepRecord

TESTS = Path(__file__).parents[2]
Call = Callable[..., subprocess.CompletedProcess[str]]


def step(stage: str, kind: str, name: str, role: str, seconds: float, images: int = 0, peak: int = 0) -> StepRecord:
    return StepRecord(
        f"{stage}.{name}[{role}]", stage, kind, name, "x", role, "key", "done", seconds, images=images, peak_memory=peak
    )


def test_seconds_pace_and_peak_of_a_stage() -> None:
    found = costs(
        [
            step("prior", "prior", "mine", "train", 10.0, 50, 3 << 30),
            step("prior", "prior", "mine", "eval", 30.0, 30, 1 << 30),
            step("clusterer", "clusterer", "embed", "train", 4.0, 8),
            step("clusterer", "clusterer", "fit", "train", 6.0, 8),
            step("prior", "evaluate", "localisation", "eval", 100.0, 30, 9 << 30),
        ]
    )
    assert found == {
        "prior.seconds": 40.0,
        "clusterer.seconds": 10.0,
        "prior.images_per_second": 2.0,
        "clusterer.images_per_second": 2.0,
        "prior.peak_gib": 3.0,
    }


def test_the_peak_is_that_since_the_beginning() -> None:
    begin_peak()
    before = peak_memory()
    with mmap.mmap(-1, 60 << 20) as held:  # pages of its own: malloc may reuse what earlier tests left in the heap
        np.frombuffer(held, np.uint8)[:] = 1
        grown = peak_memory() - before
    assert 50 << 20 < grown < 90 << 20
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this system cannot forget a peak")
    assert peak_memory() < before + (30 << 20)


def test_a_run_records_them_and_compare_shows_them(mdp: Call, tmp_path: Path) -> None:
    run = ["run", str(TESTS / "toy.yaml"), "--plugin", str(TESTS / "toy_method.py"), "--no-track", "--until", "prior"]
    assert mdp(*run).returncode == 0
    assert mdp(*run, "--set", "prior.contrast=1.5").returncode == 0
    done = mdp("compare", "last", "last~1", "--metric", "prior.images_per_second", "--metric", "peak_gib", "--json")
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert table["metrics"] == ["prior.images_per_second", "prior.peak_gib"]
    for row in table["rows"]:
        assert row["metrics"]["prior.images_per_second"]["mean"] > 0
        assert 0.02 < row["metrics"]["prior.peak_gib"]["mean"] < 8
