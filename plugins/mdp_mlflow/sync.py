"""Sending what a run's tracking lacks, on demand (``mdp track sync``) and by the follower of a run."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from mdp_core.api import MdpError, Tracking
from mdp_mlflow.sender import Sender
from mdp_mlflow.settings import MlflowConfig
from mdp_mlflow.state import LOCK, State, describe, journal_size, read_record
from mdp_mlflow.store import alive, process_tag

NAME = "mlflow"


def run_tracking(folder: Path) -> Tracking:
    """Says what MLflow has of a run, from the file beside it."""
    state = State.read(folder)
    if state is None:
        return Tracking(NAME, "", "untracked")
    if state.complete:
        return Tracking(NAME, state.uri, "complete", _detail(state))
    if _locked(folder):
        return Tracking(NAME, state.uri, "sending", _detail(state), state.error)
    rest = journal_size(folder) - state.position
    problem = state.error or (f"{rest} bytes of the journal are not sent" if rest else "the model is not sent")
    return Tracking(NAME, state.uri, "incomplete", _detail(state), problem)


def sync_run(folder: Path, *, force: bool) -> Tracking:
    """Sends what MLflow does not have of a run; with ``force``, deletes it there and sends all of it.

    Raises:
        MdpError: The store does not answer, or there is no journal.
    """
    if not journal_size(folder):
        raise MdpError(f"{folder}: the run has no journal", hint="it was made by an older version of mdp, or never began")
    try:
        with FileLock(folder / LOCK, timeout=0):
            return _sync_locked(folder, force=force)
    except Timeout:
        return run_tracking(folder)


def _sync_locked(folder: Path, *, force: bool) -> Tracking:
    state = State.read(folder) or State(MlflowConfig().model_dump(mode="json"))
    state.settings = settings_of(folder, state)
    if state.complete and not force and _same_place(folder, state):
        return run_tracking(folder)
    try:
        sender = Sender.open(folder, state, look=True)
        if force:
            sender.delete()
        state.complete = False
        if not sender.send() and _is_dead(folder):
            sender.mark_killed()
        finish(sender)
        state.error = ""
    except Exception as error:
        state.error = describe(error)
        state.save(folder)
        hint = (
            error.hint
            if isinstance(error, MdpError)
            else "the run is unharmed; once the server answers, the same command sends it"
        )
        raise MdpError(f"{folder.name} → {state.uri or 'MLflow'}: {state.error}", hint=hint) from error
    state.save(folder)
    return run_tracking(folder)


def finish(sender: Sender) -> None:
    """Stores the model, once the journal is sent, and notes that everything is done.

    Raises:
        OSError, MlflowException: The store does not answer.
    """
    state = sender.state
    if not state.journal_sent:
        return
    if MlflowConfig.model_validate(state.settings).log_model and not state.model:
        _store_model(sender)
    state.complete = True
    state.save(sender.folder)


def _store_model(sender: Sender) -> None:
    from mdp_mlflow.models import find_trained, fit_of_segmenter, known_model, log_model

    state, record = sender.state, read_record(sender.folder)
    fit = fit_of_segmenter(record)
    if fit is None:
        return
    model = known_model(sender.store, fit["key"])
    if model is None:
        try:
            trained = find_trained(sender.folder, record)
        except MdpError as error:  # nothing that another try would mend
            sender.store.client.set_tag(state.run_id, "mdp.model_problem", describe(error))
            return
        if trained is None:
            return
        model = log_model(sender.store, state.run_id, trained, record)
    state.model = f"models:/{model}"
    sender.store.client.set_tag(state.run_id, "mdp.model_uri", state.model)


def settings_of(folder: Path, state: State) -> dict[str, object]:
    """Returns the observer's settings: those of the run's recipe, where it has some, else those it was tracked with."""
    sections = read_record(folder).get("resolved", {}).get("observers", ())
    own = next((dict(s) for s in sections if s.get("use") == NAME), None)
    if own is None:
        return state.settings
    return {name: value for name, value in own.items() if name in MlflowConfig.model_fields}


def _same_place(folder: Path, state: State) -> bool:
    from mdp_mlflow.names import redact
    from mdp_mlflow.store import tracking_uri

    config = MlflowConfig.model_validate(state.settings)
    return redact(tracking_uri(config, folder.parents[1], state.uri)) == state.uri


def _is_dead(folder: Path) -> bool:
    record = read_record(folder)
    if record.get("status") != "running":
        return True
    return not alive(process_tag(str(record.get("host", "")), int(record.get("process", 0))))


def _locked(folder: Path) -> bool:
    """Tells whether somebody sends this run right now."""
    if not (folder / LOCK).exists() or not os.access(folder, os.W_OK):
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True


def _detail(state: State) -> str:
    parts = [f"{len(state.children)} steps", f"{state.metrics} metrics", f"{state.files} files"] if state.run_id else []
    return ", ".join(parts + ([state.model] if state.model else [])) + (f"; {state.page}" if state.page else "")
