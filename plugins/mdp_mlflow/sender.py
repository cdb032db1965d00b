"""Sends a run's journal to MLflow: a parent run for the recipe's run, a nested run for each step that was worked on.

All that is sent is derived from the journal and the run's folder, times included, so sending something twice changes
nothing, and a journal sent a month later gives the same run as one sent while it grew.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdp_mlflow.artifacts import gather
from mdp_mlflow.batch import Batch
from mdp_mlflow.names import LONGEST_NAME, flatten, plain_name, redact, tag_value
from mdp_mlflow.settings import MlflowConfig
from mdp_mlflow.state import State, events, journal_size, read_record
from mdp_mlflow.store import OpenStore, check_reachable, open_store, process_tag, sweep_dead_runs, tracking_uri
from mdp_mlflow.tags import datasets, facts, final_facts, run_name, summary

_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "done": "FINISHED"}
_AT_ONCE = 5000
"""Metrics that are collected before they are sent and the position is noted."""
_PARENT = "mlflow.parentRunId"


class Sender:
    """Sends one run; ``state`` always says how far it has got, and is saved beside the run.

    Args:
        folder: The run's folder.
        state: How far the sending has got.
        store: Where to.
    """

    def __init__(self, folder: Path, state: State, store: OpenStore) -> None:
        self.folder, self.state, self.store = folder, state, store
        self._client = store.client
        self._batches: dict[str, Batch] = {}

    @classmethod
    def open(cls, folder: Path, state: State, *, look: bool) -> Sender:
        """Connects, and finds the run where some of it may be there already.

        Args:
            folder: The run's folder.
            state: How far the sending has got.
            look: Whether to look for the run in MLflow; a run that was never sent needs none.

        Raises:
            OSError, MlflowException, MdpError: The store does not answer or cannot be used.
        """
        home, config = folder.parents[1], MlflowConfig.model_validate(state.settings)
        uri = tracking_uri(config, home, state.uri)
        if not state.run_id:
            state.uri = redact(uri)
        check_reachable(uri)
        store = open_store(config, home, uri)
        if state.run_id and (state.uri, state.experiment_id) != (redact(uri), store.experiment):
            forget(state)
            look = True
        state.uri, state.experiment_id = redact(uri), store.experiment
        sender = cls(folder, state, store)
        sweep_dead_runs(store, but=folder.name)
        if look:
            sender.find()
        return sender

    def find(self) -> None:
        """Finds the run and its nested runs by their tags; what is not there any more is sent from the beginning."""
        own = self._client.search_runs([self.store.experiment], f"tags.`mdp.run` = '{self.folder.name}'", max_results=1000)
        parent = next((r.info.run_id for r in own if _PARENT not in r.data.tags), "")
        if not parent:
            forget(self.state)
            return
        if parent != self.state.run_id:
            self.state.position = 0
        self.state.run_id = parent
        nested = [r for r in own if r.data.tags.get(_PARENT) == parent]
        self.state.children = {r.data.tags["mdp.step"]: r.info.run_id for r in nested}

    def delete(self) -> None:
        """Deletes the run and its nested runs in MLflow, and forgets what was sent."""
        self.find()
        for run in (*self.state.children.values(), self.state.run_id):
            if run:
                self._client.delete_run(run)
        forget(self.state)

    def send(self) -> bool:
        """Sends what the journal has beyond ``state.position``; tells whether the run is over and sent.

        Raises:
            OSError, MlflowException: The store does not answer; what was not noted as sent is sent again next time.
        """
        self._batches, waiting, position = {}, 0, self.state.position
        for position, event in events(self.folder, self.state.position):
            waiting += len(event.get("metrics", ()))
            self._take(event)
            if waiting >= _AT_ONCE:
                self._commit(position)
                waiting = 0
        if position > self.state.position:
            self._commit(position)
        return self.state.journal_sent

    def mark_killed(self) -> None:
        """Ends a run whose process is gone without a word."""
        if not self.state.run_id:
            return
        end = int((self.folder / "events.jsonl").stat().st_mtime * 1000)
        self._batch(self.state.run_id).tags |= final_facts(read_record(self.folder)) | {
            "mdp.error": "the process of this run ended without a word (killed, or the machine went down)"
        }
        self._flush()
        self._send_files(())
        running = f"attributes.status = 'RUNNING' AND tags.`mdp.run` = '{self.folder.name}'"
        for run in self._client.search_runs([self.store.experiment], running, max_results=1000):
            self._client.set_terminated(run.info.run_id, "KILLED", end)
        self.state.journal_sent = True
        self.state.position = journal_size(self.folder)
        self.state.save(self.folder)

    def _take(self, event: Mapping[str, Any]) -> None:
        now = int(event["time"] * 1000)
        match event["event"]:
            case "run-started":
                self._start_run(event["run"], now)
            case "step-started":
                self._child(event["step"], now)
            case "metrics":
                run = self.state.children.get(event["step"], self.state.run_id)
                values = [(plain_name(name), float(value), now, event["done"]) for name, value in event["metrics"].items()]
                self._batch(run).metrics += values
            case "step-finished":
                self._finish_step(event["step"], event["result"], now)
            case "run-finished":
                self._finish_run(event["outcome"], now)

    def _start_run(self, run: Mapping[str, Any], now: int) -> None:
        record = read_record(self.folder)
        if not self.state.run_id:
            tags = self._own_tags(record) | {"mlflow.source.name": record.get("recipe", run["name"])}
            created = self._client.create_run(
                self.store.experiment, now, {k: v for k, v in tags.items() if v}, run_name(run["name"], self.folder)
            )
            self.state.run_id = created.info.run_id
            self.state.save(self.folder)
        batch = self._batch(self.state.run_id)
        batch.params |= {plain_name(name): tag_value(value) for name, value in flatten(run["resolved"])}
        batch.tags |= facts(run, record, self.folder)
        self._client.log_inputs(self.state.run_id, datasets(run))

    def _child(self, step: Mapping[str, Any], now: int) -> str:
        step_id = step["id"]
        if step_id not in self.state.children:
            tags = self._own_tags(read_record(self.folder)) | {
                _PARENT: self.state.run_id, "mdp.step": step_id, "mdp.key": step["key"], "mdp.plugin": step["plugin"],
            }  # fmt: skip
            created = self._client.create_run(self.store.experiment, now, tags, step_id)
            self.state.children[step_id] = created.info.run_id
            self.state.save(self.folder)
        return self.state.children[step_id]

    def _own_tags(self, record: Mapping[str, Any]) -> dict[str, str]:
        process = process_tag(str(record.get("host", "?")), int(record.get("process", 0)))
        return {
            "mdp.run": self.folder.name, "mdp.process": process, "mlflow.source.type": "LOCAL", "mlflow.user": _user(),
        }  # fmt: skip

    def _finish_step(self, step: Mapping[str, Any], result: Mapping[str, Any], now: int) -> None:
        notes = {name: value for name, value in result["notes"].items() if value}
        weights = {f"mdp.{plain_name(n).replace(' ', '_')}.{step['stage']}": v for n, v in notes.items() if _names_weights(n)}
        parent = self._batch(self.state.run_id)
        parent.tags |= {name: tag_value(value) for name, value in weights.items()}
        if result["status"] == "hit":
            return
        run = self._child(step, now - int(result["seconds"] * 1000))
        batch = self._batch(run)
        batch.metrics.append(("seconds", float(result["seconds"]), now, 0))
        batch.tags |= {f"mdp.note.{plain_name(name)}"[:LONGEST_NAME]: tag_value(value) for name, value in notes.items()}
        batch.tags |= {f"mdp.warning.{i}": tag_value(text) for i, text in enumerate(result["warnings"])}
        self._flush()
        self._client.set_terminated(run, _STATUS[result["status"]], now)

    def _finish_run(self, outcome: Mapping[str, Any], now: int) -> None:
        record = read_record(self.folder)
        batch = self._batch(self.state.run_id)
        values = {**outcome["metrics"], "seconds": outcome["seconds"]}
        batch.metrics += [(plain_name(name), float(value), now, 0) for name, value in values.items()]
        batch.tags |= final_facts(record) | {"mlflow.note.content": summary(self.folder, record)}
        batch.tags |= {f"mdp.weights.{stage}": tag_value(weights) for stage, weights in outcome["weights"].items()}
        if outcome["error"]:
            batch.tags["mdp.error"] = tag_value(outcome["error"])
        if outcome["model"]:
            batch.tags["mdp.model"] = tag_value(outcome["model"])
        self._flush()
        self._send_files(outcome["files"])
        self._client.set_terminated(self.state.run_id, _STATUS[outcome["status"]], now)
        self.state.journal_sent = True

    def _send_files(self, files: tuple[str, ...]) -> None:
        with tempfile.TemporaryDirectory(prefix="mdp-") as temporary:
            count = gather(self.folder, read_record(self.folder), files, Path(temporary))
            self._client.log_artifacts(self.state.run_id, temporary)
        self.state.files = count

    def _batch(self, run: str) -> Batch:
        return self._batches.setdefault(run, Batch())

    def _commit(self, position: int) -> None:
        self._flush()
        self.state.position = position
        self.state.save(self.folder)

    def _flush(self) -> None:
        for run, batch in self._batches.items():
            self.state.metrics += batch.send(self._client, run)
        self._batches = {}


def forget(state: State) -> None:
    """Makes the state that of a run of which nothing was sent."""
    state.run_id, state.children, state.position, state.metrics, state.files = "", {}, 0, 0, 0
    state.journal_sent = state.complete = False
    state.model = ""


def _names_weights(note: str) -> bool:
    return note == "backbone" or "weights" in note


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return os.environ.get("USER", "unknown")
