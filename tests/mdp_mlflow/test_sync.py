"""What a server did not hear is sent later: a real server that dies in the middle of a real run, and replays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

from mdp_mlflow.state import State
from mdp_mlflow.sync import run_tracking, sync_run

from .conftest import ARGUMENTS, PARENT, Server, histories, runs_of, wait_until

Call = Callable[..., subprocess.CompletedProcess[str]]


def test_what_a_dying_server_missed_is_sent_later(mdp: Call, tmp_path: Path, server: Server) -> None:
    environment = {"MLFLOW_TRACKING_URI": server.uri}
    process = subprocess.Popen(
        [sys.executable, "-m", "mdp_core.cli.main", *ARGUMENTS],
        cwd=tmp_path, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    runs = tmp_path / ".mdp" / "runs"
    wait_until(lambda: any((s := State.read(f)) and len(s.children) >= 2 for f in runs.glob("*")))
    server.kill()
    _, errors = process.communicate(timeout=120)
    folder = next(runs.iterdir())
    assert process.returncode == 0, errors
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    assert errors.count("warning:") == 1
    assert f"mdp track sync {folder.name}" in errors
    assert run_tracking(folder).state == "incomplete"

    down = mdp("track", "sync", env=environment)
    assert down.returncode == 1
    assert "Connection refused" in down.stderr
    assert "the run is unharmed" in down.stderr

    server.start()
    client = MlflowClient(server.uri)
    (parent,), nested = runs_of(client)
    assert parent.info.status == "RUNNING", "the server knows no better"
    sent = mdp("track", "sync")
    assert sent.returncode == 0, sent.stderr
    assert f"{folder.name}: complete at {server.uri}" in sent.stdout
    assert f"/runs/{parent.info.run_id}" in sent.stdout

    undisturbed = mdp(*ARGUMENTS, "--home", "other", env=environment)
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert "warning:" not in undisturbed.stderr
    (first, second), nested = runs_of(client)
    assert (first.info.run_id, first.info.status, second.info.status) == (parent.info.run_id, "FINISHED", "FINISHED")
    assert histories(client, first, nested) == histories(client, second, nested)
    assert {r.info.status for r in nested} == {"FINISHED"}
    names = [{a.path for a in client.list_artifacts(r.info.run_id)} for r in (first, second)]
    assert names[0] == names[1] >= {"stages.png", "components.csv"}
    assert {r.data.tags["mdp.model_uri"] for r in (first, second)} == {first.data.tags["mdp.model_uri"]}, (
        "one training, one model"
    )


def test_sending_again_changes_nothing(own_run: Path) -> None:
    assert sync_run(own_run, force=False).state == "complete"
    client = MlflowClient(f"sqlite:///{own_run.parents[1] / 'mlflow.db'}")
    (parent,), nested = runs_of(client)
    before = histories(client, parent, nested)
    assert len(before["detector.fit"]) == 6

    for position in (0, 4000):  # as if the process had died before it noted what it had sent
        state = State.read(own_run)
        assert state is not None
        state.position, state.complete, state.journal_sent, state.children, state.run_id = position, False, False, {}, ""
        state.save(own_run)
        assert run_tracking(own_run).state == "incomplete"
        assert sync_run(own_run, force=False).state == "complete"
        (parent_again,), nested = runs_of(client)
        assert parent_again.info.run_id == parent.info.run_id
        assert parent_again.info.start_time == parent.info.start_time
        assert parent_again.info.end_time == parent.info.end_time
        assert histories(client, parent_again, nested) == before
    models = client.search_logged_models([parent.info.experiment_id])
    assert len(models) == 1


def test_force_replaces_the_run(own_run: Path) -> None:
    sync_run(own_run, force=False)
    client = MlflowClient(f"sqlite:///{own_run.parents[1] / 'mlflow.db'}")
    (old,), nested = runs_of(client)
    assert sync_run(own_run, force=True).state == "complete"
    (new,), nested_now = runs_of(client)
    assert new.info.run_id != old.info.run_id
    assert {r.info.run_name for r in nested_now} == {r.info.run_name for r in nested}
    gone = client.search_runs([old.info.experiment_id], run_view_type=ViewType.DELETED_ONLY)
    assert {r.info.run_id for r in gone} == {old.info.run_id, *(r.info.run_id for r in nested)}
    assert all(r.data.tags[PARENT] == new.info.run_id for r in nested_now)


def test_a_run_deleted_in_mlflow_comes_back_only_when_asked_for(own_run: Path) -> None:
    sync_run(own_run, force=False)
    client = MlflowClient(f"sqlite:///{own_run.parents[1] / 'mlflow.db'}")
    (old,), _ = runs_of(client)
    client.delete_run(old.info.run_id)
    assert sync_run(own_run, force=False).state == "complete"
    assert runs_of(client)[0] == []
    sync_run(own_run, force=True)
    assert [r.info.status for r in runs_of(client)[0]] == ["FINISHED"]


def test_a_journal_that_breaks_off_is_a_killed_run(own_run: Path) -> None:
    journal = own_run / "events.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    cut = next(i for i, line in enumerate(lines) if b'"event": "step-started"' in line and b"detector.fit" in line)
    journal.write_bytes(b"".join(lines[: cut + 3]) + lines[cut + 3][:20])
    record = json.loads((own_run / "run.json").read_text())
    (own_run / "run.json").write_text(json.dumps({**record, "status": "killed"}))
    assert sync_run(own_run, force=False).state == "complete"
    (parent,), nested = runs_of(MlflowClient(f"sqlite:///{own_run.parents[1] / 'mlflow.db'}"))
    status = {r.info.run_name: r.info.status for r in nested}
    assert (parent.info.status, status["detector.fit"], status["clusterer.fit"]) == ("KILLED", "KILLED", "FINISHED")
    assert list(status.values()).count("KILLED") == 1
