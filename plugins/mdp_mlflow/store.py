"""The tracking store: where it is, whether it answers, opening it, and the runs in it whose process died."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mdp_core.api import MdpError
from mdp_mlflow.names import redact
from mdp_mlflow.settings import MlflowConfig

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_SECONDS_TO_CONNECT = 5.0
_PAGE = 1000


@dataclass(frozen=True)
class OpenStore:
    """A tracking store with its experiment.

    Attributes:
        uri: As MLflow takes it, secrets and all.
        experiment: Id of the experiment.
    """

    client: MlflowClient
    uri: str
    experiment: str


def tracking_uri(config: MlflowConfig, home: Path, known: str = "") -> str:
    """Returns where a run is tracked.

    The setting, else ``MLFLOW_TRACKING_URI``, else where it was tracked before (``known``, without secrets), else a SQLite
    file in MDP_HOME.

    Raises:
        MdpError: It was tracked at an address with a password, which is not kept.
    """
    chosen = config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or known or f"sqlite:///{home / 'mlflow.db'}"
    if "://***@" in chosen:
        raise MdpError(
            f"the run was tracked at {chosen}, and passwords are not kept", hint="set MLFLOW_TRACKING_URI to the whole address"
        )
    return chosen


def check_reachable(uri: str) -> None:
    """Knocks at a tracking server, which takes milliseconds where importing MLflow takes a second.

    Raises:
        OSError: Nobody answers there.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return
    from urllib.request import getproxies, proxy_bypass

    if parts.scheme in getproxies() and not proxy_bypass(parts.hostname):
        return  # the proxy knows the way, we do not
    port = parts.port or (443 if parts.scheme == "https" else 80)
    socket.create_connection((parts.hostname, port), timeout=_SECONDS_TO_CONNECT).close()


def prepare_environment() -> None:
    """Sets, before MLflow is imported, what it shall do on its own: fewer retries (we try again ourselves), nothing behind our back."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def open_store(config: MlflowConfig, home: Path, uri: str | None = None) -> OpenStore:
    """Opens the tracking store, initialising it under a lock: processes that open a fresh SQLite store at once all fail.

    Raises:
        MdpError: The experiment was deleted.
    """
    prepare_environment()
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = uri or tracking_uri(config, home)
    home.mkdir(parents=True, exist_ok=True)
    with _initialising(uri, home):
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(config.experiment)
        if found is None:
            own = uri == f"sqlite:///{home / 'mlflow.db'}"
            location = (home / "mlflow-artifacts").as_uri() if own else None
            try:
                return OpenStore(client, uri, client.create_experiment(config.experiment, location))
            except MlflowException:  # another machine was faster
                found = client.get_experiment_by_name(config.experiment)
                if found is None:
                    raise
    if found.lifecycle_stage != "active":
        raise MdpError(
            f"experiment {config.experiment!r} was deleted in {redact(uri)}",
            hint=f"restore it (`mlflow experiments restore --experiment-id {found.experiment_id}`), or set another `experiment`",
        )
    return OpenStore(client, uri, found.experiment_id)


@contextmanager
def _initialising(uri: str, home: Path) -> Iterator[None]:
    """Holds the lock of a SQLite store; servers look after themselves."""
    from filelock import FileLock

    path = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    lock = nullcontext() if path is None or not path.parent.is_dir() else FileLock(path.with_name(f"{path.name}.lock"))
    with lock:
        yield


def process_tag(host: str, process: int) -> str:
    """Returns the tag that says which process a run belongs to."""
    return f"{host}:{process}"


def sweep_dead_runs(store: OpenStore, but: str = "") -> int:
    """Marks runs of this machine, and those nested in them, that say RUNNING and whose process is gone as KILLED.

    Args:
        store: The tracking store.
        but: A run of ours (``mdp.run``) to leave alone.

    Returns:
        How many there were.
    """
    here = f"attributes.status = 'RUNNING' AND tags.`mdp.process` LIKE '{socket.gethostname()}:%'"
    dead, token = [], None
    while True:
        page = store.client.search_runs([store.experiment], here, max_results=_PAGE, page_token=token)
        dead += [r for r in page if r.data.tags.get("mdp.run") != but and not alive(r.data.tags["mdp.process"])]
        token = page.token
        if not token:
            break
    for run in dead:
        store.client.set_terminated(run.info.run_id, "KILLED")
    return len(dead)


def alive(process: str) -> bool:
    """Tells whether the process of a tag lives; one of another machine is not ours to judge."""
    host, _, pid = process.rpartition(":")
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
