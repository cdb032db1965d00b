"""The MLflow observer: a parent run per recipe run, a nested run per step that was worked on.

run.json stays the truth about a run; what is tracked here can be thrown away. A store is initialised under a lock, because
processes that open a fresh SQLite store at once all fail. Runs whose process died are marked KILLED at the next start.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

# A tracking server that is down must not hold up a run: two tries of ten seconds instead of MLflow's minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mdp_core.api import Observer, RunInfo, RunOutcome, StepInfo, StepResult, hookimpl
from mdp_mlflow.settings import MlflowConfig

_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "done": "FINISHED"}
_BATCH = 200
_SECONDS_BETWEEN_BATCHES = 5.0
_PARAM_LENGTH = 5000
_NAME_LENGTH = 250


class MlflowObserver(Observer):
    """Tracks a run.

    Args:
        config: Tracking store and experiment.
    """

    def __init__(self, config: MlflowConfig) -> None:
        super().__init__(config)
        self._parent = ""
        self._child = ""
        self._waiting: list[Metric] = []
        self._sent = 0.0

    @hookimpl
    def mdp_run_started(self, run: RunInfo) -> None:
        """Opens the store and starts the parent run."""
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._client, experiment = open_store(self.config, run.home)
        sweep_dead_runs(self._client, experiment)
        git = run.provenance.get("git") or {}
        libraries = run.provenance.get("libraries") or {}
        tags = {
            "mdp.run": run.id,
            "mdp.process": f"{socket.gethostname()}:{os.getpid()}",
            "mdp.git_commit": str(git.get("commit", "")),
            "mdp.git_dirty": str(git.get("dirty", "")),
            **{f"mdp.images.{role}": value for role, value in run.fingerprints.items()},
            **{f"mdp.version.{name}": version for name, version in libraries.items()},
        }
        self._parent = self._client.create_run(
            experiment, run_name=run.id, tags={k: v for k, v in tags.items() if v}
        ).info.run_id
        params = [Param(name, value[:_PARAM_LENGTH]) for name, value in flatten(run.resolved)]
        for start in range(0, len(params), 100):
            self._client.log_batch(self._parent, params=params[start : start + 100])
        self._client.log_dict(self._parent, dict(run.resolved), "recipe.resolved.json")

    @hookimpl
    def mdp_step_started(self, run: RunInfo, step: StepInfo) -> None:
        """Starts the nested run of a step."""
        tags = {"mlflow.parentRunId": self._parent, "mdp.key": step.key, "mdp.plugin": step.plugin}
        experiment = self._client.get_run(self._parent).info.experiment_id
        self._child = self._client.create_run(experiment, run_name=step.id, tags=tags).info.run_id

    @hookimpl
    def mdp_step_progress(self, step: StepInfo, done: int, metrics: Mapping[str, float]) -> None:
        """Collects losses and the like, and sends them in batches."""
        now = int(time.time() * 1000)
        self._waiting += [Metric(_metric_name(name), float(value), now, done) for name, value in metrics.items()]
        if len(self._waiting) >= _BATCH or (self._waiting and time.monotonic() - self._sent > _SECONDS_BETWEEN_BATCHES):
            self._flush()

    @hookimpl
    def mdp_step_finished(self, step: StepInfo, result: StepResult) -> None:
        """Ends the nested run; a hit has none and leaves a tag."""
        if result.status == "hit":
            self._client.set_tag(self._parent, f"mdp.step.{step.id}".replace("[", ".").replace("]", ""), "hit")
            return
        self._flush()
        tags = [RunTag(f"mdp.note.{name}"[:250], value[:_PARAM_LENGTH]) for name, value in result.notes.items()]
        tags += [RunTag(f"mdp.warning.{i}", text[:_PARAM_LENGTH]) for i, text in enumerate(result.warnings)]
        metrics = [Metric("seconds", result.seconds, int(time.time() * 1000), 0)]
        self._client.log_batch(self._child, metrics=metrics, tags=tags)
        self._client.set_terminated(self._child, _STATUS[result.status])
        self._child = ""

    @hookimpl
    def mdp_run_finished(self, run: RunInfo, outcome: RunOutcome) -> None:
        """Logs results and pictures, and ends the parent run."""
        if not self._parent:
            return
        now = int(time.time() * 1000)
        metrics = [Metric(_metric_name(name), value, now, 0) for name, value in outcome.metrics.items()]
        metrics.append(Metric("seconds", outcome.seconds, now, 0))
        self._client.log_batch(
            self._parent, metrics=metrics, tags=[RunTag("mdp.error", outcome.error[:_PARAM_LENGTH])] if outcome.error else []
        )
        for name in ("run.json", *outcome.files):
            file = run.folder / name
            if file.is_file():
                self._client.log_artifact(self._parent, str(file))
        for stage, weights in outcome.weights.items():
            self._client.set_tag(self._parent, f"mdp.weights.{stage}", weights)
        if outcome.model is not None:
            self._client.set_tag(self._parent, "mdp.model", str(outcome.model))
        self._client.set_terminated(self._parent, _STATUS[outcome.status])

    def _flush(self) -> None:
        for start in range(0, len(self._waiting), 1000):
            self._client.log_batch(self._child, metrics=self._waiting[start : start + 1000])
        self._waiting, self._sent = [], time.monotonic()


def tracking_uri(config: MlflowConfig, home: Path) -> str:
    """Returns the store: the setting, else ``MLFLOW_TRACKING_URI``, else ``sqlite:///<home>/mlflow.db``."""
    return config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}"


def open_store(config: MlflowConfig, home: Path) -> tuple[MlflowClient, str]:
    """Opens the tracking store, initialising it under a lock.

    Returns:
        The client and the id of the experiment.
    """
    uri = tracking_uri(config, home)
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "mlflow.lock"):
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(config.experiment)
        if found is not None:
            return client, found.experiment_id
        own = uri == f"sqlite:///{home / 'mlflow.db'}"
        location = (home / "mlflow-artifacts").as_uri() if own else None
        try:
            return client, client.create_experiment(config.experiment, artifact_location=location)
        except MlflowException:  # another machine was faster
            return client, client.get_experiment_by_name(config.experiment).experiment_id


def sweep_dead_runs(client: MlflowClient, experiment: str) -> None:
    """Marks runs of this machine that say RUNNING and whose process is gone as KILLED, with their nested runs."""
    running = client.search_runs([experiment], "attributes.status = 'RUNNING'", max_results=1000)
    dead = {r.info.run_id for r in running if "mdp.process" in r.data.tags and not _alive(r.data.tags["mdp.process"])}
    for run in running:
        if run.info.run_id in dead or run.data.tags.get("mlflow.parentRunId") in dead:
            client.set_terminated(run.info.run_id, "KILLED")


def _alive(process: str) -> bool:
    host, _, pid = process.rpartition(":")
    if host != socket.gethostname():
        return True  # not ours to judge
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def flatten(value: Any, path: str = "") -> Iterable[tuple[str, str]]:
    """Yields (dotted name, text) of every setting of a resolved recipe."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from flatten(inner, f"{path}.{name}" if path else str(name))
    else:
        yield path, str(value)


def _metric_name(name: str) -> str:
    """Returns the nearest name that MLflow takes: letters, digits and ``_-./ :``, and the form of a relative path."""
    plain = "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name)
    parts = [part if part.strip(".") else "_" * len(part) for part in plain.split("/") if part]
    return "/".join(parts)[:_NAME_LENGTH].rstrip("/") or "_"
