"""Kills at random moments, reduced for every day; ``python benchmarks/kills.py`` does fifty with real networks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_killed_again_and_again_a_run_ends_as_undisturbed() -> None:
    toy = ["--recipe", "tests/toy.yaml", "--plugin", "tests/toy_method.py"]
    done = subprocess.run(
        [sys.executable, "benchmarks/kills.py", *toy, "--kills", "6", "--longest", "4", "--seed", "3"],
        cwd=ROOT, env={**os.environ, "MDP_SHARD_SIZE": "2"}, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 kills" in done.stdout
    assert ", 0 of them different" in done.stdout
