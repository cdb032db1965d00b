"""Tracking into a real SQLite store, through real runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from mdp_core.api import RunInfo, RunOutcome, StepInfo, StepResult
from mdp_mlflow.observer import MlflowObserver, flatten, open_store, sweep_dead_runs
from mdp_mlflow.settings import MlflowConfig

Call = Callable[..., subprocess.CompletedProcess[str]]
TESTS = Path(__file__).parents[1]
ARGUMENTS = ["run", str(TESTS / "toy.yaml"), "--plugin", str(TESTS / "toy_method.py")]


def store(home: Path) -> tuple[MlflowClient, str]:
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    return client, client.get_experiment_by_name("mdp").experiment_id


def test_a_run_is_a_parent_with_a_child_a_step(mdp: Call, tmp_path: Path) -> None:
    done = mdp(*ARGUMENTS)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    client, experiment = store(tmp_path / ".mdp")
    runs = client.search_runs([experiment])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert len(parents) == 1
    parent = parents[0]
    record = json.loads(next((tmp_path / ".mdp" / "runs").iterdir()).joinpath("run.json").read_text())
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["mdp.run"] == record["id"]
    assert parent.data.params["pipeline.refiner.threshold"] == "0.6"
    assert parent.data.params["seed"] == "7"
    assert parent.data.metrics["segmenter.miou"] == pytest.approx(record["results"]["components"][-1]["miou"])
    names = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert {"components.md", "stages.png", "run.json", "recipe.resolved.json"} <= names
    assert str(tmp_path / ".mdp") in parent.info.artifact_uri

    children = {r.info.run_name: r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert set(children) == {s["id"] for s in record["steps"]}
    assert {r.info.status for r in children.values()} == {"FINISHED"}
    losses = client.get_metric_history(children["detector.fit"].info.run_id, "loss")
    assert [(m.step, round(m.value, 4)) for m in losses] == [(1, 1.0), (2, 0.5), (3, 0.3333), (4, 0.25), (5, 0.2), (6, 0.1667)]

    mdp(*ARGUMENTS)
    again = [r for r in client.search_runs([experiment]) if r.info.run_id not in {x.info.run_id for x in runs}]
    assert len(again) == 1, "hits have no child of their own"
    assert again[0].data.tags["mdp.step.detector.fit"] == "hit"


def test_a_pretraining_leaves_curves_picture_and_the_place_of_its_weights(mdp: Call, tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        "name: own\ndata: {use: shapes, size: 48, train_images: 4, val_images: 2}\n"
        "pipeline: {pretrainer: {use: mean, iters: 6}, prior: {use: bright, weights: stage:pretrainer}}\n"
    )
    done = mdp("pretrain", "own.yaml", "--plugin", str(TESTS / "toy_method.py"))
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    client, experiment = store(tmp_path / ".mdp")
    runs = {r.info.run_name: r for r in client.search_runs([experiment])}
    record = json.loads(next((tmp_path / ".mdp" / "runs").iterdir()).joinpath("run.json").read_text())
    child, parent = runs["pretrainer.fit"], runs[record["id"]]
    curve = client.get_metric_history(child.info.run_id, "knn_5 ___")
    assert [(m.step, m.value) for m in curve] == [(n, 10.0 * n) for n in range(1, 7)]
    assert len(client.get_metric_history(child.info.run_id, "loss")) == 6
    made = record["results"]["weights"]["pretrainer"]
    assert child.data.tags["mdp.note.backbone"] == f"sha256:{made['sha256']}"
    assert parent.data.tags["mdp.weights.pretrainer"] == f"{tmp_path / '.mdp' / made['file']} sha256:{made['sha256']}"
    names = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert names == {"pretrainer-curve.png", "pretrainer-log.jsonl", "run.json", "recipe.resolved.json"}


NAMES = [
    "loss",
    "k-NN @ 20 (%)",
    "a//b",
    "/lr",
    "./x",
    "../y",
    "..",
    "",
    "verlust/größe",
    "x" * 300,
    "tail/" + "y" * 244 + "/z",
]


def test_thousands_of_points_of_any_name_arrive(tmp_path: Path) -> None:
    observer = MlflowObserver(MlflowConfig())
    step = StepInfo("pretrainer.fit", "pretrainer", "fit", "dino", "key", "iterations")
    run = RunInfo("id", "name", tmp_path, tmp_path, 0, {"name": "x"}, (step,))
    observer.mdp_run_started(run)
    observer.mdp_step_started(run, step)
    for iteration in range(1, 3001):
        observer.mdp_step_progress(step, iteration, {"loss": 1 / iteration, "accuracy": float(iteration)})
    observer.mdp_step_progress(step, 3001, dict.fromkeys(NAMES, 0.5) | {"bad": float("nan"), "large": float("inf")})
    observer.mdp_step_finished(step, StepResult("done", 1.0))
    observer.mdp_run_finished(run, RunOutcome("finished", 1.0))
    client, experiment = store(tmp_path)
    child = next(r for r in client.search_runs([experiment]) if r.info.run_name == "pretrainer.fit")
    losses = client.get_metric_history(child.info.run_id, "loss")
    assert sorted((m.step, m.value) for m in losses)[:3000] == [(n, 1 / n) for n in range(1, 3001)]
    assert [m.step for m in client.get_metric_history(child.info.run_id, "accuracy")] == list(range(1, 3001))
    kept = {"loss", "k-NN _ 20 ___", "a/b", "lr", "_/x", "__/y", "__", "_", "verlust/größe", "x" * 250, "tail/" + "y" * 244}
    assert kept | {"bad", "large", "accuracy", "seconds"} == set(child.data.metrics)


def test_a_failed_run_is_marked(mdp: Call, tmp_path: Path) -> None:
    assert mdp(*ARGUMENTS, "--set", "pipeline.prior={use: crash}").returncode == 1
    client, experiment = store(tmp_path / ".mdp")
    assert {r.info.status for r in client.search_runs([experiment])} == {"FAILED"}


def test_a_tracking_server_that_is_down_does_not_fail_the_run(mdp: Call, tmp_path: Path) -> None:
    done = mdp(*ARGUMENTS, env={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"})
    assert done.returncode == 0, done.stderr
    assert "MlflowObserver failed in mdp_run_started" in done.stderr
    assert json.loads(next((tmp_path / ".mdp" / "runs").iterdir()).joinpath("run.json").read_text())["status"] == "finished"


def test_eight_processes_open_a_fresh_store_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom mdp_mlflow.observer import open_store\nfrom mdp_mlflow.settings import MlflowConfig\n"
        "client, experiment = open_store(MlflowConfig(), pathlib.Path(sys.argv[1]))\nprint(client.create_run(experiment).info.run_id)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    results = [(p.communicate(timeout=200), p.returncode) for p in processes]
    assert [code for _, code in results] == [0] * 8, [err for (_, err), _ in results]
    client, experiment = store(tmp_path)
    assert len(client.search_runs([experiment])) == 8


def test_runs_of_dead_processes_are_swept(tmp_path: Path) -> None:
    import socket

    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    client, experiment = open_store(MlflowConfig(), tmp_path)
    host = socket.gethostname()
    lost = client.create_run(experiment, tags={"mdp.process": f"{host}:{dead.pid}"})
    child = client.create_run(experiment, tags={"mlflow.parentRunId": lost.info.run_id})
    alive = client.create_run(experiment, tags={"mdp.process": f"{host}:{os.getpid()}"})
    elsewhere = client.create_run(experiment, tags={"mdp.process": f"another-host:{dead.pid}"})
    sweep_dead_runs(client, experiment)
    status = {r.info.run_id: r.info.status for r in client.search_runs([experiment])}
    assert [status[r.info.run_id] for r in (lost, child, alive, elsewhere)] == ["KILLED", "KILLED", "RUNNING", "RUNNING"]


def test_flatten_names_every_setting() -> None:
    assert list(flatten({"a": {"b": 1, "c": [1, 2]}, "d": {}, "e": None})) == [
        ("a.b", "1"),
        ("a.c", "[1, 2]"),
        ("d", "{}"),
        ("e", "None"),
    ]
