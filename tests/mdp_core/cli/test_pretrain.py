"""``mdp pretrain``, and weights that one stage of a run makes for the next, through real runs of the toy method."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

Call = Callable[..., subprocess.CompletedProcess[str]]
TOY = Path(__file__).parents[2] / "toy_method.py"

PRETRAINER = "  pretrainer: {use: mean, iters: 6}\n"
HEAD = "name: own\nseed: 7\ndata: {use: shapes, size: 48, train_images: 8, val_images: 4}\nevaluate: [clustering]\npipeline:\n"
ALONE = HEAD + PRETRAINER
WHOLE = (
    ALONE
    + "  prior: {use: bright, weights: stage:pretrainer}\n  clusterer: {use: colour, clusters: 2}\n  refiner: {use: keep}\n"
)
ROUNDS = (
    ALONE
    + "  prior: {use: bright}\n  second: {kind: pretrainer, use: mean, init: stage:pretrainer}\n"
    + "  again: {kind: prior, use: bright, weights: stage:second}\n"
)


def command(name: str, folder: Path, text: str, *more: str) -> list[str]:
    (folder / "own.yaml").write_text(text)
    return [name, "own.yaml", "--plugin", str(TOY), "--no-track", *more]


def last_run(folder: Path) -> dict[str, Any]:
    return json.loads(max((folder / ".mdp" / "runs").iterdir()).joinpath("run.json").read_text())


def statuses(folder: Path) -> dict[str, str]:
    return {s["id"]: s["status"] for s in last_run(folder)["steps"]}


def stored(folder: Path, stage: str = "pretrainer") -> Path:
    return folder / ".mdp" / last_run(folder)["results"]["weights"][stage]["file"]


def says(done: subprocess.CompletedProcess[str], *words: str, code: int) -> None:
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for text in words:
        assert text in done.stderr, done.stderr


def test_only_the_weights_are_made_and_the_summary_says_where_they_are(mdp: Call, tmp_path: Path) -> None:
    done = mdp(*command("pretrain", tmp_path, WHOLE))
    assert done.returncode == 0, done.stderr
    assert statuses(tmp_path) == {"pretrainer.fit": "done"}
    run = last_run(tmp_path)
    weights, folder = stored(tmp_path), tmp_path / ".mdp" / "runs" / run["id"]
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert run["results"]["weights"]["pretrainer"] == {
        "file": str(weights.relative_to(tmp_path / ".mdp")), "sha256": sha256, "bytes": weights.stat().st_size,
    }  # fmt: skip
    assert run["steps"][0]["notes"]["backbone"] == f"sha256:{sha256}"
    assert run["labels_used"] == {}
    assert set(run["images"]) == {"train"}, "nothing is evaluated, so the other split is not read"
    assert (folder / "pretrainer-curve.png").read_bytes() == (weights.parent / "curve.png").read_bytes()
    assert [json.loads(line)["iteration"] for line in (folder / "pretrainer-log.jsonl").open()] == [1, 2, 3, 4, 5, 6]
    for text in (
        f"pretrainer: {weights.relative_to(tmp_path)}",
        f"sha256 {sha256}",
        f".mdp/runs/{run['id']}/pretrainer-curve.png",
        f"  weights: file:{weights}",
    ):
        assert text in done.stdout

    again = mdp(*command("pretrain", tmp_path, WHOLE))
    assert statuses(tmp_path) == {"pretrainer.fit": "hit"}
    assert f"  weights: file:{weights}" in again.stdout

    whole = mdp(*command("run", tmp_path, WHOLE))
    assert whole.returncode == 0, whole.stderr
    assert statuses(tmp_path)["pretrainer.fit"] == "hit"
    assert "prior + clusterer" in whole.stdout


def test_the_stages_after_it_read_its_weights(mdp: Call, tmp_path: Path) -> None:
    assert mdp(*command("run", tmp_path, WHOLE)).returncode == 0
    weights = stored(tmp_path)
    colour = [round(float(c)) for c in load_file(weights)["colour"]]
    notes = {s["id"]: s["notes"] for s in last_run(tmp_path)["steps"]}
    assert notes["prior.mine[train]"]["weights"] == f"stage:pretrainer colour:{colour}", (
        "as the recipe says, not as the disk does"
    )
    masks = (tmp_path / ".mdp" / "runs" / last_run(tmp_path)["id"] / "masks.json").read_text()

    by_file = WHOLE.replace(PRETRAINER, "").replace("stage:pretrainer", f"file:{weights}")
    assert mdp(*command("run", tmp_path, by_file)).returncode == 0
    assert (tmp_path / ".mdp" / "runs" / last_run(tmp_path)["id"] / "masks.json").read_text() == masks


def test_a_moved_store_is_still_a_hit(mdp: Call, tmp_path: Path) -> None:
    assert mdp(*command("run", tmp_path, WHOLE)).returncode == 0
    shutil.move(tmp_path / ".mdp", tmp_path / "elsewhere")
    moved = command("run", tmp_path, WHOLE, "--home", "elsewhere")
    assert mdp(*moved, "--set", "prior.contrast=2").returncode == 0
    runs = sorted((tmp_path / "elsewhere" / "runs").iterdir())
    steps = json.loads((runs[-1] / "run.json").read_text())["steps"]
    assert {s["id"].split(".")[0]: s["status"] for s in steps} == {
        "pretrainer": "hit", "prior": "done", "clusterer": "done", "refiner": "done",
    }  # fmt: skip
    assert mdp(*moved).returncode == 0
    newest = max((tmp_path / "elsewhere" / "runs").iterdir())
    assert {s["status"] for s in json.loads((newest / "run.json").read_text())["steps"]} == {"hit"}


def test_a_pipeline_of_a_pretrainer_alone(mdp: Call, tmp_path: Path) -> None:
    """``evaluate`` asks for more than there is, and nothing fails."""
    done = mdp(*command("run", tmp_path, ALONE))
    assert done.returncode == 0, done.stderr
    assert statuses(tmp_path) == {"pretrainer.fit": "done"}
    assert f"pretrainer: {stored(tmp_path).relative_to(tmp_path)}" in done.stdout
    folder = tmp_path / ".mdp" / "runs" / last_run(tmp_path)["id"]
    assert not (folder / "stages.png").exists()
    assert not (folder / "components.md").exists()


def test_masks_of_a_prior_reach_the_next_pretrainer(mdp: Call, tmp_path: Path) -> None:
    done = mdp(*command("pretrain", tmp_path, ROUNDS))
    assert done.returncode == 0, done.stderr
    assert statuses(tmp_path) == {"pretrainer.fit": "done", "prior.mine[train]": "done", "second.fit": "done"}
    with_masks = load_file(stored(tmp_path, "second"))["colour"]
    assert f"weights: file:{stored(tmp_path, 'second')}" in done.stdout
    assert mdp(*command("pretrain", tmp_path, ROUNDS, "--stage", "pretrainer")).returncode == 0
    assert statuses(tmp_path) == {"pretrainer.fit": "hit"}
    without = ROUNDS.replace("  prior: {use: bright}\n", "")
    assert mdp(*command("pretrain", tmp_path, without)).returncode == 0
    assert abs(with_masks - load_file(stored(tmp_path, "second"))["colour"]).max() > 1, "objects have another colour"


def test_out_is_never_replaced_in_silence(mdp: Call, tmp_path: Path) -> None:
    out = tmp_path / "models" / "own.safetensors"
    done = mdp(*command("pretrain", tmp_path, ALONE, "--out", "models/own.safetensors"))
    assert done.returncode == 0, done.stderr
    first = out.read_bytes()
    assert first == stored(tmp_path).read_bytes()
    assert f"weights: file:{out}" in done.stdout
    assert [p.name for p in out.parent.iterdir()] == ["own.safetensors"]
    assert mdp(*command("pretrain", tmp_path, ALONE, "--out", str(out))).returncode == 0, "the same contents are no loss"

    runs = len(list((tmp_path / ".mdp" / "runs").iterdir()))
    other = ["--out", str(out), "--set", "pretrainer.iters=3"]
    says(mdp(*command("pretrain", tmp_path, ALONE, *other)), "is there already", "--force", code=2)
    assert len(list((tmp_path / ".mdp" / "runs").iterdir())) == runs, "known before the work"
    assert out.read_bytes() == first
    assert mdp(*command("pretrain", tmp_path, ALONE, *other, "--force")).returncode == 0
    assert out.read_bytes() == stored(tmp_path).read_bytes() != first
    says(mdp(*command("pretrain", tmp_path, ALONE, "--out", str(out))), str(tmp_path / ".mdp"), "with other contents", code=2)


@pytest.mark.parametrize(
    ("out", "words"), [("own.pth", "ends with .safetensors"), ("own.yaml/x.safetensors", "own.yaml cannot be written")]
)
def test_an_out_that_cannot_be_written_is_known_before_the_work(mdp: Call, tmp_path: Path, out: str, words: str) -> None:
    says(mdp(*command("pretrain", tmp_path, ALONE, "--out", out)), words, code=2)
    assert not (tmp_path / ".mdp" / "store").exists()


def test_a_recipe_without_a_pretrainer(mdp: Call, tmp_path: Path) -> None:
    text = WHOLE.replace(PRETRAINER, "").replace(", weights: stage:pretrainer", "")
    done = mdp(*command("pretrain", tmp_path, text))
    says(done, "own.yaml: there is no pretrainer in its pipeline", "put one first", "weights: stage:pretrainer", "mean", code=2)
    says(
        mdp(*command("pretrain", tmp_path, ROUNDS, "--stage", "prior")),
        "--stage prior: it is a prior", "its pretrainers are: pretrainer, second", code=2,
    )  # fmt: skip
    says(mdp(*command("pretrain", tmp_path, ROUNDS, "--stage", "secnd")), "did you mean 'second'?", code=2)


def test_a_reference_to_no_pretrainer_has_its_place(mdp: Call, tmp_path: Path) -> None:
    done = mdp(*command("run", tmp_path, WHOLE.replace("stage:pretrainer", "stage:pretrainr")))
    says(
        done,
        "own.yaml:7:33: pipeline.prior.weights: no pretrainer named 'pretrainr' before this stage, did you mean 'pretrainer'?",
        code=2,
    )


def test_a_pretrainer_that_leaves_no_weights_is_named(mdp: Call, tmp_path: Path) -> None:
    done = mdp(*command("pretrain", tmp_path, ALONE.replace("use: mean, iters: 6", "use: empty")))
    says(done, "pretrainer:empty left no backbone.safetensors in step pretrainer.fit", code=1)
    assert mdp(*command("pretrain", tmp_path, ALONE)).returncode == 0


def test_plan_names_the_setting_and_not_the_keys_that_follow(mdp: Call, tmp_path: Path) -> None:
    assert mdp(*command("run", tmp_path, WHOLE)).returncode == 0
    arguments = [a for a in command("plan", tmp_path, WHOLE, "--set", "pretrainer.iters=2") if a != "--no-track"]
    lines = {line.split()[0]: line for line in mdp(*arguments).stdout.splitlines() if line and line.split()[0].count(".")}
    assert "pretrainer.iters: 6 → 2" in lines["pretrainer.fit"]
    assert "6 → 2" not in lines["prior.mine[train]"]
    assert "pretrainer.fit" in lines["prior.mine[train]"].split(maxsplit=1)[1]


def stop_in_the_middle(folder: Path, arguments: list[str], number: int) -> subprocess.CompletedProcess[str]:
    """Starts a pretraining that stalls in its third iteration, and sends it a signal there."""
    trace = folder / "trace"
    env = {**os.environ, "MDP_TOY_TRACE": str(trace), "MDP_TOY_STALL": "pretrain"}
    process = subprocess.Popen(
        [sys.executable, "-m", "mdp_core.cli.main", *arguments],
        cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (trace.exists() and trace.read_text().count("pretrain ") == 3):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, number)
    output, errors = process.communicate(timeout=30)
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_stopped_in_the_middle_the_same_command_ends_with_the_same_weights(mdp: Call, tmp_path: Path, number: int) -> None:
    arguments = command("pretrain", tmp_path, ALONE, "--out", "own.safetensors")
    stopped = stop_in_the_middle(tmp_path, arguments, number)
    assert not (tmp_path / "own.safetensors").exists()
    if number == signal.SIGINT:
        says(stopped, "interrupted; the last checkpoint is kept", "mdp pretrain own.yaml", "--out own.safetensors", code=130)
        assert last_run(tmp_path)["status"] == "interrupted"
    trace = tmp_path / "again"
    assert mdp(*arguments, env={"MDP_TOY_TRACE": str(trace)}).returncode == 0
    assert trace.read_text().splitlines() == ["pretrain 4", "pretrain 5", "pretrain 6"]

    elsewhere = tmp_path / "undisturbed"
    assert mdp(*arguments[:-1], "other.safetensors", "--home", str(elsewhere)).returncode == 0
    assert (tmp_path / "own.safetensors").read_bytes() == (tmp_path / "other.safetensors").read_bytes()
