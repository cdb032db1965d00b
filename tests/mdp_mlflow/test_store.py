"""The tracking store: first use by many at once, dead runs, places."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from mdp_core.api import MdpError
from mdp_mlflow.settings import MlflowConfig
from mdp_mlflow.state import State
from mdp_mlflow.store import check_reachable, open_store, sweep_dead_runs, tracking_uri

from .conftest import ARGUMENTS, runs_of, wait_until


def test_eight_runs_at_once_on_a_fresh_store(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished.parents[1] / "store", tmp_path / ".mdp" / "store")
    command = [sys.executable, "-m", "mdp_core.cli.main", *ARGUMENTS, "--set"]
    processes = [
        subprocess.Popen([*command, f"name=run{i}"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for i in range(8)
    ]
    errors = [(p.communicate(timeout=300)[1], p.returncode) for p in processes]
    assert [code for _, code in errors] == [0] * 8, errors
    folders = list((tmp_path / ".mdp" / "runs").iterdir())
    wait_until(lambda: all((state := State.read(f)) is not None and state.complete for f in folders), 120)
    (parents, nested) = runs_of(MlflowClient(f"sqlite:///{tmp_path / '.mdp' / 'mlflow.db'}"))
    assert [r.info.status for r in parents] == ["FINISHED"] * 8
    assert {r.data.params["name"] for r in parents} == {f"run{i}" for i in range(8)}
    assert nested == []
    assert len({len(r.data.metrics) for r in parents}) == 1


def test_runs_of_dead_processes_are_swept(home: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    store = open_store(MlflowConfig(), home)
    host = socket.gethostname()

    def make(process: str, run: str = "x") -> str:
        tags = {"mdp.process": process, "mdp.run": run}
        return str(store.client.create_run(store.experiment, tags=tags).info.run_id)

    lost, own = make(f"{host}:{dead.pid}"), make(f"{host}:{dead.pid}", "own")
    alive, elsewhere = make(f"{host}:{os.getpid()}"), make(f"another-host:{dead.pid}")
    stranger = store.client.create_run(store.experiment).info.run_id
    assert sweep_dead_runs(store, but="own") == 1
    status = {r.info.run_id: r.info.status for r in store.client.search_runs([store.experiment])}
    assert status == {lost: "KILLED", own: "RUNNING", alive: "RUNNING", elsewhere: "RUNNING", stranger: "RUNNING"}


def test_a_deleted_experiment_is_said_to_be_so(home: Path) -> None:
    store = open_store(MlflowConfig(), home)
    store.client.delete_experiment(store.experiment)
    with pytest.raises(MdpError, match="'mdp' was deleted") as caught:
        open_store(MlflowConfig(), home)
    assert f"restore --experiment-id {store.experiment}" in str(caught.value.hint)


def test_where_runs_are_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking_uri(MlflowConfig(), tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert tracking_uri(MlflowConfig(), tmp_path, "http://before") == "http://before"
    with pytest.raises(MdpError, match="passwords are not kept"):
        tracking_uri(MlflowConfig(), tmp_path, "http://***@before")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    assert tracking_uri(MlflowConfig(), tmp_path, "http://***@before") == "http://environment"
    assert tracking_uri(MlflowConfig(tracking_uri="http://setting"), tmp_path) == "http://setting"


def test_nobody_there_is_found_out_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            check_reachable(f"http://127.0.0.1:{free.getsockname()[1]}")
        free.listen()
        check_reachable(f"http://127.0.0.1:{free.getsockname()[1]}/mlflow")
    check_reachable("sqlite:////nowhere/mlflow.db")
