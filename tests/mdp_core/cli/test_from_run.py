"""``mdp run --from-run``: the same again, what is said of it, and what it does when things changed meanwhile."""

from __future__ import annotations

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

import numpy as np
import pytest
from PIL import Image

Call = Callable[..., subprocess.CompletedProcess[str]]
TESTS = Path(__file__).parents[2]


def mdp_in(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mdp_core.cli.main", *arguments],
        cwd=folder, env={**os.environ, **env}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def runs(home: Path) -> list[dict[str, Any]]:
    return [json.loads(f.read_text()) for f in sorted(home.glob("runs/*/run.json"), key=lambda f: f.stat().st_mtime_ns)]


def repetition(home: Path) -> dict[str, Any]:
    return json.loads((home / "runs" / runs(home)[-1]["id"] / "repetition.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of the toy method, called with a relative plugin and a setting."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copy(TESTS / "toy_method.py", folder / "toy.py")
    shutil.copy(TESTS / "toy.yaml", folder)
    done = mdp_in(folder, "run", "toy.yaml", "--plugin", "toy.py", "--no-track", "--set", "seed=11")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def work(made: Path, tmp_path: Path) -> Path:
    """A copy of it, whose run knows itself to be there."""
    folder = tmp_path / "work"
    shutil.copytree(made, folder, symlinks=True)
    for file in folder.glob(".mdp/runs/*/run.json"):
        file.write_text(file.read_text().replace(str(made), str(folder)))
    for file in folder.glob(".mdp/runs/*/plugins/plugins.json"):
        file.write_text(file.read_text().replace(str(made), str(folder)))
    return folder


def again(work: Path, *more: str, run: str = "last", cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return mdp_in(cwd or work, "run", "--from-run", run, "--home", str(work / ".mdp"), "--no-track", *more, **env)


def test_from_the_store_and_from_another_folder(work: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    done = again(work, cwd=tmp_path / "elsewhere")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 of 18 steps were done again, 18 came from the store" in done.stdout
    assert "are exactly equal" in done.stdout
    assert "keys, images, versions and machine are the same" in done.stdout
    first, second = runs(work / ".mdp")
    assert second["from_run"] == first["id"]
    assert second["resolved"] == first["resolved"]
    assert second["seed"] == 11
    assert second["metrics"] == first["metrics"]
    assert repetition(work / ".mdp")["verdict"] == "equal"


def test_every_step_again_in_a_store_of_its_own(work: Path) -> None:
    trace = work / "trace"
    done = again(work, "--fresh", "--keep", MDP_TOY_TRACE=str(trace))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "18 of 18 steps were done again, 0 came from the store" in done.stdout
    assert "the files of 18 of 18 results have the same contents" in done.stdout
    assert {line.split()[0] for line in trace.read_text().splitlines()} >= {
        "mine",
        "embed",
        "fit",
        "predict",
        "refine",
        "segment",
    }
    first = runs(work / ".mdp")[0]["id"]
    assert (work / ".mdp" / "fresh" / first / "store" / "detector-fit").is_dir()
    refused = again(work, "--fresh", run=first)
    assert refused.returncode == 1
    assert "holds a repetition that was kept" in refused.stderr


def test_one_that_was_broken_off_is_continued(work: Path) -> None:
    first, trace = runs(work / ".mdp")[0]["id"], work / "trace"
    command = [sys.executable, "-m", "mdp_core.cli.main", "run", "--from-run", first, "--fresh", "--no-track"]
    env = {**os.environ, "MDP_TOY_STALL": "fit", "MDP_TOY_TRACE": str(trace)}
    process = subprocess.Popen(command, cwd=work, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (trace.exists() and "fit 3" in trace.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert f"--from-run {first} --fresh" in process.communicate(timeout=60)[1], "the command that continues it"
    done = again(work, "--fresh", run=first)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 of 18 steps were done again, 9 came from the store (done before this repetition was broken off)" in done.stdout
    assert "the files of 18 of 18 results have the same contents" in done.stdout
    assert not list((work / ".mdp" / "fresh").iterdir())


def test_an_edited_plugin_does_not_change_it(work: Path) -> None:
    plugin = work / "toy.py"
    plugin.write_text(plugin.read_text().replace("found.scores >= self", "found.scores > 2 + self"))
    done = again(work, "--fresh")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "toy.py is not the same any more; the source that the run kept is used" in done.stderr
    assert "18 of 18 steps were done again" in done.stdout
    assert repetition(work / ".mdp")["verdict"] == "equal"

    first = runs(work / ".mdp")[0]["id"]
    varied = again(work, "--plugin", "toy.py", run=first)
    assert varied.returncode == 0, varied.stdout + varied.stderr
    assert "a variation of" in varied.stdout
    assert repetition(work / ".mdp")["verdict"] == "different"
    plugin.unlink()
    gone = again(work, run=first)
    assert gone.returncode == 0, gone.stderr
    assert "toy.py is gone" in gone.stderr


def test_numbers_that_differ_end_with_3(work: Path) -> None:
    file = next(work.glob(".mdp/runs/*/run.json"))
    content = json.loads(file.read_text())
    content["metrics"]["segmenter.miou"] += 0.01
    file.write_text(json.dumps(content))
    done = again(work)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "1 of" in done.stdout and "DIFFER" in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("segmenter.miou") and "-0.01" in line)
    assert f"{content['metrics']['segmenter.miou']:.6f}"[:6] in row

    content["metrics"]["segmenter.miou"] -= 0.01 - 1e-15
    file.write_text(json.dumps(content))
    close = again(work, run=content["id"])
    assert close.returncode == 0, close.stdout
    assert "exactly equal" in close.stdout


def test_a_variation_is_called_one(work: Path) -> None:
    done = again(work, "--set", "refiner.threshold=0.3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a variation of" in done.stdout
    assert "of which this is a variation" in done.stdout
    assert "refiner.refine[train]" in done.stdout.partition("keys of steps that are not the same")[2]
    assert runs(work / ".mdp")[-1]["resolved"]["pipeline"]["refiner"]["threshold"] == 0.3


def test_images_that_changed_are_said_first(tmp_path: Path) -> None:
    shutil.copy(TESTS / "toy_method.py", tmp_path / "toy.py")
    (tmp_path / "photos").mkdir()
    for i in range(3):
        pixels = np.full((40, 50, 3), 30 + i, np.uint8)
        pixels[10:25, 10:30] = 200
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "photos.yaml").write_text("name: photos\ndata: {use: folder, root: photos}\npipeline: {prior: {use: bright}}\n")
    assert mdp_in(tmp_path, "run", "photos.yaml", "--plugin", "toy.py", "--no-track").returncode == 0
    same = again(tmp_path, "--fresh")
    assert same.returncode == 0, same.stdout + same.stderr
    assert "there are no metrics; the results are equal" in same.stdout
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "photos" / "3.png")
    done = again(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "images of split all (train): 3 images" in done.stderr
    assert "4 images" in done.stderr
    assert "there are no metrics to compare (--fresh compares the files of the results)" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["quickstart", "--from-run", "last"], 2, "leave quickstart out, or --from-run"),
        ([], 2, "there is none; name one"),
        (["quickstart", "--fresh"], 2, "it belongs to --from-run RUN"),
        (["--from-run", "last", "--keep"], 2, "it belongs to --from-run RUN --fresh"),
        (["--from-run", "last"], 1, "there are no runs in"),
    ],
)
def test_calls_that_make_no_sense(mdp: Call, arguments: list[str], code: int, words: str) -> None:
    done = mdp("run", *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
