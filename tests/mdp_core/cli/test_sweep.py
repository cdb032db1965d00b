"""Sweeps of the toy method: shared work once, kills, failures, mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RECIPE = Path(__file__).parents[2] / "toy.yaml"
TOY = Path(__file__).parents[2] / "toy_method.py"
Call = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ("--set", "data.train_images=4", "--set", "data.val_images=2", "--set", "segmenter=null", "--set", "data.size=32")
TWELVE = (
    "--set", "prior.contrast=1", "--vary", "refiner.threshold=0.3,0.5,0.6,0.7,0.8,0.9", "--vary", "pipeline.prior.contrast=1.0,1.2",
)  # fmt: skip


def arguments(*more: str) -> list[str]:
    return ["sweep", str(RECIPE), "--plugin", str(TOY), "--no-track", *SMALL, *more]


def state(home: Path) -> dict[str, Any]:
    (file,) = (home / "sweeps").glob("*/sweep.json")
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def runs(home: Path) -> dict[str, dict[str, Any]]:
    return {f.parent.name: json.loads(f.read_text()) for f in sorted((home / "runs").glob("*/run.json"))}


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def begin(folder: Path, *more: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mdp_core.cli.main", *arguments(*more)],
        cwd=folder, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def children(folder: Path) -> list[str]:
    """Processes that still work for a sweep in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if (process / "cwd").readlink() == folder and b"mdp_core" in command:
                found.append(command.decode().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_twelve_runs_train_the_detector_twice_and_survive_a_kill(mdp: Call, tmp_path: Path) -> None:
    """Six thresholds of the refiner, two values of the prior's setting; killed after the third run, then the same command."""
    home, trace = tmp_path / ".mdp", tmp_path / "trace"
    process = begin(tmp_path, *TWELVE, "--jobs", "2", MDP_TOY_TRACE=str(trace))

    def counts() -> list[str]:
        return [m["status"] for m in state(home)["members"]] if list((home / "sweeps").glob("*/sweep.json")) else []

    wait_for(lambda: counts().count("finished") >= 3, process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while children(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not children(tmp_path), "runs end with the sweep that made them"
    finished = {name: run["sweep"] for name, run in runs(home).items() if run["status"] == "finished"}
    assert 3 <= len(finished) < 12
    written = {name: (home / "runs" / name / "run.json").stat().st_mtime_ns for name in finished}

    again = mdp(*arguments(*TWELVE, "--jobs", "2"), env={"MDP_TOY_TRACE": str(trace)})
    assert again.returncode == 0, again.stderr
    assert f"{len(finished)} of 12 runs are finished already" in again.stdout
    assert {name: (home / "runs" / name / "run.json").stat().st_mtime_ns for name in finished} == written
    all_finished = [run["sweep"] for run in runs(home).values() if run["status"] == "finished"]
    assert sorted(all_finished) == sorted(f"{state(home)['id']}/{n}" for n in range(1, 13)), "each member once"
    assert counts() == ["finished"] * 12
    fits = [line for line in trace.read_text().splitlines() if line.startswith("fit ")]
    assert sorted(fits) == sorted(f"fit {i}" for i in range(1, 7) for _ in range(2)), "six iterations, two trainings"
    assert len(list((home / "store" / "detector-fit").glob("*/manifest.json"))) == 2
    table = [line.split()[:4] for line in again.stdout.splitlines() if line.split()[:1] in (["1"], ["2"], ["12"])]
    assert table == [["1", "1.0", "0.3", "1"], ["2", "1.2", "0.3", "1"], ["12", "1.2", "0.9", "1"]]

    made = len(runs(home))
    third = mdp(*arguments(*TWELVE))
    assert third.returncode == 0
    assert "12 of 12 runs are finished already" in third.stdout
    assert len(runs(home)) == made
    compared = mdp("compare", "--sweep", "last", "--json", "--metric", "refiner.miou")
    rows = json.loads(compared.stdout)["rows"]
    assert [row["settings"] for row in rows] == [
        {"pipeline.prior.contrast": c, "pipeline.refiner.threshold": t}
        for t in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
        for c in (1.0, 1.2)
    ]
    numbers = {run["sweep"]: run["metrics"]["refiner.miou"] for run in runs(home).values() if run["status"] == "finished"}
    assert [row["metrics"]["refiner.miou"]["mean"] for row in rows] == [
        numbers[f"{state(home)['id']}/{n}"] for n in range(1, 13)
    ]


@pytest.mark.parametrize("keep_going", [False, True])
def test_a_failed_run_is_listed(mdp: Call, tmp_path: Path, keep_going: bool) -> None:
    more = ["--vary", "prior.contrast=1000,1.0", "--until", "clusterer", *(["--keep-going"] if keep_going else [])]
    done = mdp(*arguments(*more))
    assert done.returncode == 1
    log = tmp_path / ".mdp" / "sweeps" / state(tmp_path / ".mdp")["id"] / "1.log"
    assert "1 of 2 runs failed:\n  1  prior.contrast=1000\n     clusterer.fit: there are no masks to cluster" in done.stderr
    assert f"log: {log}" in done.stderr
    assert "no masks to cluster" in log.read_text()
    assert ("1 runs were not started" in done.stderr) is not keep_going
    assert [m["status"] for m in state(tmp_path / ".mdp")["members"]] == ["failed", "finished" if keep_going else "waiting"]
    assert "Traceback" not in done.stderr
    if keep_going:
        assert "1 of 2 runs are not in this table" in done.stdout
        again = mdp(*arguments(*more))
        assert again.returncode == 1, "what failed is tried again"
        assert "1 of 2 runs are finished already" in again.stdout
        assert [r["status"] for r in runs(tmp_path / ".mdp").values()] == ["failed", "finished", "failed"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_runs_and_leaves_the_command(tmp_path: Path, number: int) -> None:
    trace = tmp_path / "trace"
    env = {"MDP_TOY_TRACE": str(trace), "MDP_TOY_STALL": "mine", "MDP_SHARD_SIZE": "1"}
    process = begin(tmp_path, "--vary", "prior.contrast=1.0,1.1", "--jobs", "2", **env)
    wait_for(lambda: trace.exists() and trace.read_text().count("mine") >= 6, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; finished runs are kept. Continue with:\n  mdp sweep" in errors
    assert "--vary prior.contrast=1.0,1.1" in errors
    assert [m["status"] for m in state(tmp_path / ".mdp")["members"]] == ["interrupted", "interrupted"]
    assert [r["status"] for r in runs(tmp_path / ".mdp").values()] == ["interrupted", "interrupted"], (
        "the runs noted it themselves"
    )
    assert not children(tmp_path)


def test_all_mistakes_come_before_any_work(mdp: Call, tmp_path: Path) -> None:
    done = mdp(*arguments("--vary", "prior.use=bright,brihgt", "--vary", "refiner.threshold=0.5,x", "--set", "detector.iter=3"))
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert "3 mistakes in the variations of" in lines[0] and "nothing was run" in lines[0]
    assert lines[1] == "  all 4:"
    assert "--set detector.iter=3: pipeline.detector.iter: unknown setting, did you mean 'iters'?" in lines[2]
    assert lines[3] == "  prior.use=bright  refiner.threshold=x; prior.use=brihgt  refiner.threshold=x:"
    assert "pipeline.refiner.threshold: expected a number, got 'x'" in lines[4]
    assert lines[5] == "  prior.use=brihgt  refiner.threshold=0.5; prior.use=brihgt  refiner.threshold=x:"
    assert "no prior named 'brihgt', did you mean 'bright'?" in lines[6]
    assert not (tmp_path / ".mdp" / "runs").exists()
    assert not (tmp_path / ".mdp" / "sweeps").exists()


def test_stages_that_do_not_fit_are_found_before_any_work(mdp: Call) -> None:
    done = mdp(*arguments("--vary", "clusterer={},null"))
    assert done.returncode == 2
    assert "clusterer=null:" in done.stderr
    assert "pipeline.detector: a detector needs clustered masks" in done.stderr


def test_settings_of_a_plugin_come_with_it(mdp: Call) -> None:
    wrong = mdp(*arguments("--vary", "prior.use=bright,crash", "--vary", "prior.contrast=1.0,1.1", "--dry-run"))
    assert wrong.returncode == 2
    assert "pipeline.prior.contrast: unknown setting" in wrong.stderr
    assert "--vary 'prior={use: a, topk: 0.2},{use: b}'" in wrong.stderr
    right = mdp(
        *arguments("--vary", "prior={use: bright, contrast: 1.1},{use: bright, contrast: 1.2},{use: crash}", "--dry-run")
    )
    assert right.returncode == 0, right.stderr
    assert "3 runs" in right.stdout


def test_a_dry_run_counts_and_writes_nothing(mdp: Call, tmp_path: Path) -> None:
    done = mdp(*arguments("--vary", "refiner.threshold=0.5,0.6", "--seeds", "2", "--dry-run"))
    assert done.returncode == 0, done.stderr
    assert "4 runs" in done.stdout
    assert "1  refiner.threshold=0.5  seed=7" in done.stdout
    assert "4  refiner.threshold=0.6  seed=8" in done.stdout
    shared = 4  # masks and embeddings of two roles know neither seed nor threshold
    seeded = 7  # the score of the masks, the clusterer's fit, its labels of two roles and their score, the detector's fit and predictions
    own = 2  # the refiner's label maps and their score
    assert f"{shared + 2 * seeded + 4 * own} distinct steps, each done once (one by one the runs have {4 * 13})" in done.stdout
    assert shared + seeded + own == 13
    assert not (tmp_path / ".mdp" / "sweeps").exists()


def test_the_section_of_a_recipe_and_the_command_line_over_it(mdp: Call, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        RECIPE.read_text()
        + "sweep: {vary: {refiner.threshold: [0.5, 0.6], prior.contrast: [1.0, 1.1]}, seeds: [3, 9], zip: true}\n"
    )
    base = ["sweep", str(recipe), "--plugin", str(TOY), "--dry-run"]
    done = mdp(*base)
    assert done.returncode == 0, done.stderr
    shown = [line.split("(")[0].split()[1:] for line in done.stdout.splitlines() if "steps to do" in line]
    assert shown == [
        ["refiner.threshold=0.5", "prior.contrast=1.0", "seed=3"],
        ["refiner.threshold=0.5", "prior.contrast=1.0", "seed=9"],
        ["refiner.threshold=0.6", "prior.contrast=1.1", "seed=3"],
        ["refiner.threshold=0.6", "prior.contrast=1.1", "seed=9"],
    ]
    over = mdp(*base, "--grid", "--seeds", "1", "--vary", "pipeline.prior.contrast=2.0")
    shown = [line.split("(")[0].split()[1:] for line in over.stdout.splitlines() if "steps to do" in line]
    assert shown == [[f"refiner.threshold={t}", "prior.contrast=2.0", "seed=7"] for t in ("0.5", "0.6")]


def test_the_table_shows_the_metrics_that_the_recipe_asks_for(mdp: Call, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    section = "sweep: {vary: {prior.contrast: [1.0, 1.1]}, metrics: [prior.hit, images_per_second, never.there]}\n"
    recipe.write_text(RECIPE.read_text() + section)
    done = mdp("sweep", str(recipe), "--plugin", str(TOY), "--until", "prior", "--no-track")
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("hit %", "images_per_second")), done.stdout
    assert "never" not in done.stdout
    again = mdp("compare", "--sweep", "last", "--csv")
    assert "prior.images_per_second mean" in again.stdout.splitlines()[0]
    asked = mdp("compare", "--sweep", "last", "--csv", "--metric", "prior.corloc")
    assert "images_per_second" not in asked.stdout


def test_nothing_to_vary(mdp: Call) -> None:
    done = mdp(*arguments())
    assert done.returncode == 2
    assert "nothing varies: give --vary SETTING=VALUE,VALUE or --seeds N" in done.stderr
