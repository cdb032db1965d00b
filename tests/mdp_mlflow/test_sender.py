"""Journals of every kind arrive as they are."""

from __future__ import annotations

import json
from pathlib import Path

from mlflow.tracking import MlflowClient

from mdp_core.api import RunInfo, RunOutcome, StepInfo, StepResult
from mdp_core.engine.journal import Journal
from mdp_mlflow.sync import sync_run

from .conftest import runs_of

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


def test_thousands_of_points_of_any_name_arrive(home: Path) -> None:
    folder = home / "runs" / "id"
    folder.mkdir(parents=True)
    step = StepInfo("pretrainer.fit", "pretrainer", "fit", "dino", "key", "iterations")
    many = {f"mm_overrides.{i}": "y" * 9000 for i in range(250)} | {"uri": "http://a:b@host"}
    run = RunInfo("id", "name", folder, home, 0, {"name": "x", "many": many}, (step,))
    (folder / "run.json").write_text(json.dumps({"id": "id", "sweep": "s1/3", "note": "http://a:b@host"}))
    journal = Journal()
    journal.mdp_run_started(run)
    journal.mdp_step_started(step)
    for iteration in range(1, 3001):
        journal.mdp_step_progress(step, iteration, 3001, {"loss": 1 / iteration, "accuracy": float(iteration)})
    journal.mdp_step_progress(step, 3001, 3001, dict.fromkeys(NAMES, 0.5) | {"bad": float("nan"), "large": float("inf")})
    journal.mdp_step_finished(step, StepResult("done", 1.0, {f"note {i}": "z" * 6000 for i in range(150)}))
    journal.mdp_run_finished(RunOutcome("finished", 1.0))
    assert sync_run(folder, force=False).state == "complete"
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    (parent,), (child,) = runs_of(client)
    losses = client.get_metric_history(child.info.run_id, "loss")
    assert sorted((m.step, m.value) for m in losses)[:3000] == [(n, 1 / n) for n in range(1, 3001)]
    assert [m.step for m in client.get_metric_history(child.info.run_id, "accuracy")] == list(range(1, 3001))
    kept = {"loss", "k-NN _ 20 ___", "a/b", "lr", "_/x", "__/y", "__", "_", "verlust/größe", "x" * 250, "tail/" + "y" * 244}
    assert kept | {"bad", "large", "accuracy", "seconds"} == set(child.data.metrics)
    assert len([t for t in child.data.tags if t.startswith("mdp.note.")]) == 150
    assert len(parent.data.params) == 252
    assert parent.data.params["many.uri"] == "http://***@host"
    assert (parent.data.tags["mdp.sweep"], parent.data.tags["mdp.sweep_member"]) == ("s1", "3")
    stored = Path(client.download_artifacts(parent.info.run_id, "run.json"))
    assert json.loads(stored.read_text())["note"] == "http://***@host"
