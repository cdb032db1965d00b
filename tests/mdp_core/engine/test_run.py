"""Runs of the toy method: hits, resumes after kills, damage, crashes, bad plugins."""

from __future__ import annotations

import hashlib
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


def arguments(*more: str) -> list[str]:
    return ["run", str(RECIPE), "--plugin", str(TOY), "--no-track", *more]


def last_run(folder: Path) -> dict[str, Any]:
    return json.loads(max((folder / ".mdp" / "runs").iterdir()).joinpath("run.json").read_text())


def runs(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((r / "run.json").read_text()) for r in sorted((folder / ".mdp" / "runs").iterdir())]


def statuses(run: dict[str, Any]) -> dict[str, str]:
    return {s["id"]: s["status"] for s in run["steps"]}


def final_maps(folder: Path) -> str:
    """A hash of the final label maps of the newest run."""
    newest = max((folder / ".mdp" / "runs").iterdir())
    total = hashlib.sha256()
    for file in sorted((newest / "label_maps").rglob("*.png")):
        total.update(file.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = subprocess.run(
        [sys.executable, "-m", "mdp_core.cli.main", *arguments()], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return final_maps(folder)


def test_a_run_and_the_same_command_again(mdp: Call, tmp_path: Path, undisturbed: str) -> None:
    first = mdp(*arguments())
    assert first.returncode == 0, first.stderr
    assert "prior + clusterer" in first.stdout
    assert final_maps(tmp_path) == undisturbed, "another folder and process give the same maps"
    run = last_run(tmp_path)
    assert run["status"] == "finished"
    assert set(statuses(run).values()) == {"done"}
    folder = tmp_path / ".mdp" / "runs" / run["id"]
    for name in ("components.md", "components.csv", "classes.csv", "results.json", "stages.png", "clusters.png", "masks.json"):
        assert (folder / name).stat().st_size > 0
    assert len(list((folder / "label_maps").rglob("*.png"))) == 6

    trace = tmp_path / "trace"
    again = mdp(*arguments(), env={"MDP_TOY_TRACE": str(trace)})
    assert set(statuses(last_run(tmp_path)).values()) == {"hit"}
    assert not trace.exists()
    assert "18 of 18 steps were in the store" in again.stdout
    assert last_run(tmp_path)["results"] == run["results"]


def test_a_threshold_repeats_the_refiner_and_what_follows_only(mdp: Call, tmp_path: Path) -> None:
    mdp(*arguments())
    mdp(*arguments("--set", "refiner.threshold=0.3"))
    done = {name for name, status in statuses(last_run(tmp_path)).items() if status == "done"}
    assert done == {
        "refiner.refine[train]", "refiner.refine[eval]", "refiner.clustering[eval]",
        "segmenter.fit", "segmenter.predict[eval]", "segmenter.clustering[eval]",
    }  # fmt: skip


def test_reordered_keys_repeat_nothing(mdp: Call, tmp_path: Path) -> None:
    mdp(*arguments())
    other = tmp_path / "other.yaml"
    text = RECIPE.read_text().replace(
        "{use: shapes, size: 48, train_images: 12, val_images: 6}", "{val_images: 6, train_images: 12, size: 48, use: shapes}"
    )
    other.write_text("# a comment\n" + text.replace("threshold: 0.6", "threshold: 6.0e-1"))
    mdp("run", str(other), "--plugin", str(TOY), "--no-track")
    assert set(statuses(last_run(tmp_path)).values()) == {"hit"}


def start_and_kill(folder: Path, stall: str, number: int) -> None:
    """Starts a run that stalls in a step, waits until it is there, and kills it."""
    trace = folder / "trace"
    env = {**os.environ, "MDP_TOY_TRACE": str(trace), "MDP_TOY_STALL": stall, "MDP_SHARD_SIZE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "mdp_core.cli.main", *arguments()],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        lines = [line for line in trace.read_text().splitlines() if line.split()[0] == stall] if trace.exists() else []
        if len(lines) >= (1 if stall == "fit-clusters" else 3):
            break
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        time.sleep(0.05)
    else:
        raise AssertionError(f"{stall} was never reached")
    os.kill(process.pid, number)
    process.wait(30)


@pytest.mark.parametrize("stall", ["mine", "embed", "fit-clusters", "fit", "predict", "refine", "segment"])
def test_kill_9_in_any_stage_then_the_same_command(mdp: Call, tmp_path: Path, undisturbed: str, stall: str) -> None:
    env = {"MDP_SHARD_SIZE": "1", "MDP_TOY_TRACE": str(tmp_path / "trace")}
    start_and_kill(tmp_path, stall, signal.SIGKILL)
    before = (tmp_path / "trace").read_text().splitlines()
    again = mdp(*arguments(), env=env)
    assert again.returncode == 0, again.stderr
    assert final_maps(tmp_path) == undisturbed
    after = (tmp_path / "trace").read_text().splitlines()[len(before) :]
    if stall in ("mine", "embed", "predict", "refine"):
        finished = [line for line in before if line.split()[0] == stall][:-1]
        assert len(finished) == 2
        assert not set(finished) & set(after), "finished shards are not computed again"
    if stall == "fit":
        assert [line for line in after if line.startswith("fit ")] == ["fit 4", "fit 5", "fit 6"], (
            "it resumes where it was killed"
        )
    assert [r["status"] for r in runs(tmp_path)] == ["killed", "finished"], (
        "a killed run cannot say so itself, the next one can"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_marks_the_run_and_leaves_the_command_that_continues(tmp_path: Path, number: int) -> None:
    start_and_kill(tmp_path, "fit", number)
    run = last_run(tmp_path)
    assert run["status"] == "interrupted"
    assert run["steps"][-1] | {"seconds": 0, "key": ""} == {
        "id": "detector.fit", "stage": "detector", "kind": "detector", "step": "fit", "plugin": "memory", "role": "train", "key": "",
        "status": "interrupted", "seconds": 0, "notes": {"device": "cpu"}, "warnings": [], "images": 0, "peak_memory": 0,
    }  # fmt: skip


def test_no_worker_outlives_its_killed_parent(tmp_path: Path) -> None:
    start_and_kill(tmp_path, "mine", signal.SIGKILL)
    deadline = time.monotonic() + 10
    marker = str(tmp_path / "trace").encode()
    while time.monotonic() < deadline:
        alive = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (
                    b"mdp_core.executors.worker" in (folder / "cmdline").read_bytes()
                    and marker in (folder / "environ").read_bytes()
                ):
                    alive.append(folder.name)
            except OSError:
                continue
        if not alive:
            return
        time.sleep(0.1)
    raise AssertionError(f"workers {alive} are still there")


def test_a_damaged_result_is_made_anew_with_a_warning(mdp: Call, tmp_path: Path, undisturbed: str) -> None:
    mdp(*arguments())
    part = next((tmp_path / ".mdp" / "store" / "detector-predict").glob("*/parts/00000.parquet"))
    part.write_bytes(part.read_bytes()[:-7])
    again = mdp(*arguments())
    assert again.returncode == 0, again.stderr
    assert "the stored result is damaged" in again.stderr
    assert "parts/00000.parquet" in again.stderr
    assert list(statuses(last_run(tmp_path)).values()).count("done") == 1
    assert final_maps(tmp_path) == undisturbed


def test_two_runs_at_once_do_each_step_once(tmp_path: Path, undisturbed: str) -> None:
    trace = tmp_path / "trace"
    env = {**os.environ, "MDP_TOY_TRACE": str(trace)}
    both = [
        subprocess.Popen([sys.executable, "-m", "mdp_core.cli.main", *arguments()], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]  # fmt: skip
    for process in both:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
    lines = trace.read_text().splitlines()
    fits = [line for line in lines if line.startswith("fit ")]
    assert len(fits) == 6, "six iterations, once"
    assert final_maps(tmp_path) == undisturbed


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (
            "raise",
            [
                "prior.mine[train] (prior:crash) crashed: RuntimeError: something in the plugin is wrong",
                "traceback:",
                "prior.log",
            ],
        ),
        ("exit", ["its process died (exit code 3)", "prior.log"]),
        ("few", ["prior:crash yielded 11 results for 12 images", "exactly one result an image"]),
        ("size", ["prior:crash gave a result of 49×48 for train/", "which has 48×48"]),
        ("nan", ["prior:crash gave a mask with the score nan for train/00000", "0 to 1"]),
        ("empty", ["prior:crash gave an empty mask (number 0) for train/00000", "leave empty masks out"]),
        ("late-raise", ["(prior:crash) crashed: ZeroDivisionError: one by none (at image train/00002)", "traceback:"]),
    ],
)
def test_a_plugin_that_misbehaves_is_named(mdp: Call, tmp_path: Path, how: str, words: list[str]) -> None:
    done = mdp(*arguments("--set", f"pipeline.prior={{use: crash, how: {how}}}"))
    assert done.returncode == 1
    for text in words:
        assert text in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert last_run(tmp_path)["status"] == "failed"
    if how == "raise":
        log = tmp_path / ".mdp" / "runs" / last_run(tmp_path)["id"] / "logs" / "prior.log"
        assert "something in the plugin is wrong" in log.read_text()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("sleep", ["prior:crash has made no result for 1 s at image train/00002", "raise pipeline.prior.time_limit"]),
        (
            "stubborn",
            ["at image train/00002", "it cannot be interrupted, so its process is ended", "its process died (exit code 1)"],
        ),
        ("busy", ["its process died (exit code 1)", "prior.log"]),
    ],
)
def test_a_plugin_that_takes_for_ever_is_stopped_and_what_it_had_finished_is_kept(
    mdp: Call, tmp_path: Path, how: str, words: list[str]
) -> None:
    limited = ["--set", f"pipeline.prior={{use: crash, how: {how}}}", "--set", "prior.time_limit=1"]
    trace = tmp_path / "trace"
    started = time.monotonic()
    done = mdp(*arguments(*limited), env={"MDP_TOY_TRACE": str(trace)})
    assert time.monotonic() - started < 60
    assert done.returncode == 1
    for text in words:
        assert text in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    if how == "busy":
        log = tmp_path / ".mdp" / "runs" / last_run(tmp_path)["id"] / "logs" / "prior.log"
        assert "in _fail" in log.read_text(), "faulthandler says where it was"
    if how == "sleep":
        trace.unlink()
        mdp(*arguments(*limited), env={"MDP_TOY_TRACE": str(trace)})
        assert trace.read_text().splitlines() == ["crash train/00002"], "the two images before it are kept"


def test_a_thousand_masks_an_image_are_no_mistake(mdp: Call, tmp_path: Path) -> None:
    done = mdp(*arguments("--set", "pipeline.prior={use: crash, how: many}", "--until", "clusterer"))
    assert done.returncode == 0, done.stderr
    assert set(statuses(last_run(tmp_path)).values()) == {"done"}


def test_no_masks_at_all(mdp: Call) -> None:
    done = mdp(*arguments("--set", "prior.contrast=1000"))
    assert done.returncode == 1
    assert "no masks to cluster: the prior found none in 12 images" in done.stderr


def test_inline_gives_the_same(mdp: Call, tmp_path: Path, undisturbed: str) -> None:
    assert mdp(*arguments("--inline")).returncode == 0
    assert final_maps(tmp_path) == undisturbed


def test_a_full_disk_is_said_and_nothing_is_lost(mdp: Call, tmp_path: Path, undisturbed: str) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs rights that this process lacks")
    try:
        done = mdp(*arguments("--home", str(small)))
        assert done.returncode == 1
        assert "no space left on the disk" in done.stderr
        assert "free some space" in done.stderr
        assert "Traceback" not in done.stderr
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        assert mdp(*arguments("--home", str(small))).returncode == 0
        newest = max(r for r in (small / "runs").iterdir() if (r / "label_maps").is_dir())
        total = hashlib.sha256()
        for file in sorted((newest / "label_maps").rglob("*.png")):
            total.update(file.read_bytes())
        assert total.hexdigest() == undisturbed
    finally:
        subprocess.run(["umount", str(small)], check=False)


def test_results_say_which_labels_stood_behind_them(mdp: Call, tmp_path: Path) -> None:
    """A plugin that declares labels is named in the rows that it had a part in, and in no row before."""
    plugin = tmp_path / "cheat.py"
    plugin.write_text(
        TOY.read_text()
        .replace('"refiner", "keep"', '"refiner", "keep-labelled"')
        .replace(
            "class KeepConfig(RefinerConfig):",
            'class KeepConfig(RefinerConfig):\n    uses_labels = "a threshold chosen on val"',
        )
    )
    done = mdp("run", str(RECIPE), "--plugin", str(plugin), "--no-track", "--set", "refiner.use=keep-labelled")
    assert done.returncode == 0, done.stderr
    rows = {r["title"]: r["protocol"]["ground_truth"] for r in last_run(tmp_path)["results"]["components"]}
    scoring = ["matching clusters with classes (split val)", "scoring (split val)"]
    assert rows == {
        "prior + clusterer": scoring,
        "detector + refiner": ["refiner: a threshold chosen on val", *scoring],
        "segmenter": ["refiner: a threshold chosen on val", *scoring],
    }
    assert last_run(tmp_path)["labels_used"] == {"refiner": "a threshold chosen on val"}
