"""Whole runs through the command line, on a cluster that loses a machine."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SLOW = Path(__file__).with_name("slow_prior.py")


def start(toy: Path, home: Path, told: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mdp_core.cli.main", "run", str(toy.with_name("toy.yaml")), "--home", str(home)]
    command += ["--plugin", str(toy), "--plugin", str(SLOW), "--set", "pipeline.prior.use=slow", *arguments]
    environment = {**os.environ, "MDP_SHARD_SIZE": "2", "MDP_TOLD": str(told), **variables}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=home.parent
    )


def contents(home: Path) -> dict[str, str]:
    """Returns the hash of each file of each result; manifests and curves tell of time."""
    return {
        str(path.relative_to(home / "store")): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((home / "store").rglob("*"))
        if path.is_file() and {"parts", "result"} & set(path.parts)
    }


def metrics(home: Path) -> dict[str, float]:
    (record,) = (home / "runs").glob("*/run.json")
    return json.loads(record.read_text())["metrics"]


def lines(told: Path) -> list[list[str]]:
    return [line.split() for line in told.read_text().splitlines()] if told.exists() else []


def wait_for(condition, patience: float = 100) -> None:
    until = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_a_machine_lost_while_mining_changes_nothing(cluster, second, toy: Path, tmp_path: Path) -> None:
    told, alone = tmp_path / "told", tmp_path / "alone"
    run = start(toy, tmp_path / "ray-home", told, "--executor", "ray", RAY_ADDRESS=cluster.address)
    wait_for(lambda: run.poll() is not None or any(machine == second.node_id for _, machine in lines(told)))
    cluster.remove_node(second)
    _, errors = run.communicate(timeout=200)
    assert run.returncode == 0, errors
    assert "its machine is gone" in errors
    assert "raylet" not in errors
    images = [image for image, _ in lines(told)]
    assert len(images) > len(set(images)), "some shard was begun twice"
    serial = start(toy, tmp_path / "home", alone)
    _, errors = serial.communicate(timeout=200)
    assert serial.returncode == 0, errors
    assert {machine for _, machine in lines(alone)} == {"here"}
    assert len(contents(tmp_path / "home")) > 20
    assert contents(tmp_path / "home") == contents(tmp_path / "ray-home")
    assert metrics(tmp_path / "home") == metrics(tmp_path / "ray-home")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_nothing_running_and_goes_on(cluster, toy: Path, tmp_path: Path, number: int) -> None:
    told, home = tmp_path / "told", tmp_path / "home"
    run = start(toy, home, told, "--executor", "ray", RAY_ADDRESS=cluster.address)
    wait_for(lambda: run.poll() is not None or len(lines(told)) >= 3)
    run.send_signal(number)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130, errors
    assert "Traceback" not in errors
    before = len(lines(told))
    time.sleep(1)
    assert len(lines(told)) == before
    again = start(toy, home, told, "--executor", "ray", "--until", "prior", RAY_ADDRESS=cluster.address)
    _, errors = again.communicate(timeout=200)
    assert again.returncode == 0, errors
    images = [image for image, _ in lines(told)]
    assert images.count(images[0]) == 1, "the shard that was done is kept"


@pytest.mark.slow
def test_a_segmenter_is_trained_by_two_processes_of_ray_train(cluster, second, toy: Path, tmp_path: Path) -> None:
    fit = {
        "size": 64,
        "batch": 4,
        "iters": 3,
        "frozen_stages": -1,
        "workers": 0,
        "mm_overrides": {"decode_head": {"channels": 16}},
    }
    segmenter = json.dumps({"use": "deeplabv3", "arch": "r18", "fit": fit, "predict": {"size": 64}})
    home = tmp_path / "home"
    arguments = ["--set", f"pipeline.segmenter={segmenter}", "--set", "executor={use: ray, train_workers: 2, cpus_per_fit: 1}"]
    run = start(toy, home, tmp_path / "told", *arguments, RAY_ADDRESS=cluster.address)
    _, errors = run.communicate(timeout=280)
    assert run.returncode == 0, errors
    (entry,) = (path.parent for path in (home / "store" / "segmenter-fit").glob("*/manifest.json"))
    assert (entry / "result" / "model.safetensors").is_file()
    curve = [json.loads(line) for line in (entry / "curve.jsonl").read_text().splitlines()]
    assert [point["done"] for point in curve] == [1, 2, 3]
    assert all(point["metrics"]["loss"] > 0 for point in curve)
    assert list(home.glob("runs/*/logs/segmenter-rank1.log")), "two processes"
