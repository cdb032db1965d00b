"""Tracking of real runs into a real SQLite store."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from mdp_mlflow.state import State

from .conftest import ARGUMENTS, PARENT, PATIENT, RUN, TESTS, runs_of, wait_until

Call = Callable[..., subprocess.CompletedProcess[str]]


def store(home: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{home / 'mlflow.db'}")


def only_run(home: Path) -> tuple[Path, dict[str, Any]]:
    folder = next((home / "runs").iterdir())
    return folder, json.loads((folder / "run.json").read_text())


def start(tmp_path: Path, *more: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mdp_core.cli.main", *ARGUMENTS, *more],
        cwd=tmp_path, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def state_of(home: Path) -> State | None:
    folders = list((home / "runs").glob("*")) if (home / "runs").is_dir() else []
    return State.read(folders[0]) if folders else None


def test_a_run_is_a_parent_with_a_child_a_step(mdp: Call, tmp_path: Path) -> None:
    done = mdp(*ARGUMENTS)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    client = store(tmp_path / ".mdp")
    folder, record = only_run(tmp_path / ".mdp")
    (parent,), nested = runs_of(client)
    assert parent.info.status == "FINISHED"
    tags, params = parent.data.tags, parent.data.params
    assert tags["mdp.run"] == record["id"]
    assert parent.info.run_name == f"toy-{record['id'][-4:]}"
    assert params["pipeline.refiner.threshold"] == "0.6"
    assert params["seed"] == tags["mdp.seed"] == "7"
    assert tags["mdp.images.train"] == record["images"]["train"]["fingerprint"]
    assert tags["mdp.weights.detector"] == "none: it remembers colours"
    assert tags["mdp.plugin.segmenter"].startswith("table from toy_method.py sha256:")
    assert re.fullmatch(r"shapes from mdp-platform [^ ]+, results version \d+", tags["mdp.plugin.data"])
    assert f"mdp-platform {record['environment']['libraries']['mdp-platform']}" in tags["mdp.versions"]
    given = {d.tags[0].value: (d.dataset.name, d.dataset.digest) for d in parent.inputs.dataset_inputs}
    assert given["eval"] == ("shapes val", record["images"]["eval"]["fingerprint"])
    assert tags["mdp.device"] == "cpu"
    assert "| segmenter " in tags["mlflow.note.content"]
    assert parent.data.metrics["segmenter.miou"] == pytest.approx(record["results"]["components"][-1]["miou"])
    assert parent.info.end_time - parent.info.start_time == pytest.approx(record["seconds"] * 1000, abs=1000)
    names = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert {
        "components.md",
        "components.csv",
        "stages.png",
        "clusters.png",
        "run.json",
        "recipe.resolved.json",
        "steps.csv",
    } <= names
    assert str(tmp_path / ".mdp") in parent.info.artifact_uri

    children = {r.info.run_name: r for r in nested}
    assert set(children) == {s["id"] for s in record["steps"]}
    assert {r.info.status for r in nested} == {"FINISHED"}
    assert {r.data.tags[PARENT] for r in nested} == {parent.info.run_id}
    losses = client.get_metric_history(children["detector.fit"].info.run_id, "loss")
    assert [(m.step, round(m.value, 4)) for m in losses] == [(1, 1.0), (2, 0.5), (3, 0.3333), (4, 0.25), (5, 0.2), (6, 0.1667)]
    assert not (folder / "logs" / "mlflow.log").read_text()

    began = time.monotonic()
    assert mdp(*ARGUMENTS, "--set", "name=again").returncode == 0
    assert time.monotonic() - began < 15, "about 2.5 s on an idle machine"
    (first, again), nested_now = runs_of(client)
    assert len(nested_now) == len(nested), "hits have no run of their own"
    assert again.data.tags["mdp.from_store"].split(", ") == record["planned"]
    assert again.data.tags["mdp.weights.detector"] == "none: it remembers colours"
    assert again.data.tags["mdp.model_uri"] == first.data.tags["mdp.model_uri"], "the model is stored once"


def test_a_pretraining_leaves_curves_picture_and_the_place_of_its_weights(mdp: Call, tmp_path: Path, home: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        "name: own\ndata: {use: shapes, size: 48, train_images: 4, val_images: 2}\n"
        "pipeline: {pretrainer: {use: mean, iters: 6}, prior: {use: bright, weights: stage:pretrainer}}\n"
    )
    done = mdp("pretrain", "own.yaml", "--plugin", str(TESTS / "toy_method.py"), "--set", PATIENT)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    client = store(home)
    (parent,), (child,) = runs_of(client)
    _, record = only_run(home)
    assert child.info.run_name == "pretrainer.fit"
    curve = client.get_metric_history(child.info.run_id, "knn_5 ___")
    assert [(m.step, m.value) for m in curve] == [(n, 10.0 * n) for n in range(1, 7)]
    assert len(client.get_metric_history(child.info.run_id, "loss")) == 6
    made = record["results"]["weights"]["pretrainer"]
    assert child.data.tags["mdp.note.backbone"] == f"sha256:{made['sha256']}"
    assert parent.data.tags["mdp.weights.pretrainer"] == f"{tmp_path / '.mdp' / made['file']} sha256:{made['sha256']}"
    names = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert names >= {"pretrainer-curve.png", "pretrainer-log.jsonl", "run.json", "recipe.resolved.json", "steps.csv"}


def test_a_failed_run_is_marked_and_has_its_log(mdp: Call, home: Path) -> None:
    assert mdp(*ARGUMENTS, "--set", "pipeline.prior={use: crash}").returncode == 1
    client = store(home)
    (parent,), nested = runs_of(client)
    assert {r.info.status for r in (parent, *nested)} == {"FAILED"}
    assert "something in the plugin is wrong" in parent.data.tags["mdp.error"]
    assert [a.path for a in client.list_artifacts(parent.info.run_id, "logs")] == ["logs/prior.log"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_is_marked_killed(how: signal.Signals, mdp: Call, tmp_path: Path, home: Path) -> None:
    process = start(tmp_path, env={"MDP_TOY_STALL": "embed"})
    wait_until(lambda: (state := state_of(home)) is not None and "clusterer.embed[train]" in state.children)
    process.send_signal(how)
    process.communicate(timeout=60)
    wait_until(lambda: (state := state_of(home)) is not None and state.complete)
    (parent,), nested = runs_of(store(home))
    status = {r.info.run_name: r.info.status for r in nested}
    assert parent.info.status == "KILLED"
    assert status["prior.mine[train]"] == "FINISHED"
    assert status["clusterer.embed[train]"] == "KILLED"
    assert "mdp.error" in parent.data.tags
    assert mdp("track", "sync").stdout == "nothing to send\n"


def test_without_tracking_there_is_no_trace(mdp: Call, tmp_path: Path) -> None:
    assert mdp(*ARGUMENTS, "--no-track", "--until", "prior").returncode == 0
    home = tmp_path / ".mdp"
    assert not (home / "mlflow.db").exists()
    assert not (only_run(home)[0] / "mlflow.json").exists()


def test_a_server_that_is_down_costs_a_warning_and_no_secret(mdp: Call, tmp_path: Path) -> None:
    secret = secrets.token_hex(8)
    done = mdp(*RUN, "--until", "prior", env={"MLFLOW_TRACKING_URI": f"http://ann:{secret}@127.0.0.1:9"})
    assert done.returncode == 0, done.stderr
    folder, record = only_run(tmp_path / ".mdp")
    assert record["status"] == "finished"
    assert done.stderr.count("warning:") == 1
    assert "http://***@127.0.0.1:9 does not have all of this run: ConnectionRefusedError" in done.stderr
    assert f"mdp track sync {record['id']}" in done.stderr
    written = [f for f in (tmp_path / ".mdp").rglob("*") if f.is_file() and secret.encode() in f.read_bytes()]
    assert written == []
    assert secret not in done.stderr + done.stdout
    listed = json.loads(mdp("track", "ls", "--json").stdout)
    assert [(r["run"], r["state"], r["place"]) for r in listed] == [(folder.name, "incomplete", "http://***@127.0.0.1:9")]
    again = mdp("track", "sync")
    assert again.returncode == 1
    assert "passwords are not kept" in again.stderr
    assert "MLFLOW_TRACKING_URI" in again.stderr


def test_a_recipe_takes_no_password(mdp: Call) -> None:
    done = mdp(*RUN, "--set", "observers=[{use: mlflow, tracking_uri: 'http://ann:pw@host'}]")
    assert done.returncode == 2
    assert "MLFLOW_TRACKING_PASSWORD" in done.stderr
