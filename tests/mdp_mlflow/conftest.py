"""A real tracking server, and runs of the toy method to track."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

TESTS = Path(__file__).parents[1]
PATIENT = "observers=[{use: mlflow, wait: 120}]"
"""On a machine with other things to do, ten seconds may not be enough."""
RUN = ["run", str(TESTS / "toy.yaml"), "--plugin", str(TESTS / "toy_method.py")]
ARGUMENTS = [*RUN, "--set", PATIENT]
PARENT = "mlflow.parentRunId"


class Server:
    """``mlflow server`` on 127.0.0.1 over a SQLite file; can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).read()
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    made = Server(folder)
    made.start()
    yield made
    made.kill()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the toy recipe that nothing tracked; do not write into it."""
    place = tmp_path_factory.mktemp("finished")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MDP_", "MLFLOW_"))}
    command = [sys.executable, "-m", "mdp_core.cli.main", *ARGUMENTS, "--no-track"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return next((place / ".mdp" / "runs").iterdir())


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite tracking store with nothing in it: making its tables takes seconds."""
    path = tmp_path_factory.mktemp("blank") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def home(tmp_path: Path, blank: Path) -> Path:
    """The MDP_HOME of commands called with ``mdp``, with an empty tracking store."""
    (tmp_path / ".mdp").mkdir()
    shutil.copyfile(blank, tmp_path / ".mdp" / "mlflow.db")
    return tmp_path / ".mdp"


@pytest.fixture
def own_run(finished: Path, home: Path) -> Path:
    """A finished run, with its home, of the test's own."""
    shutil.copytree(finished.parents[1], home, dirs_exist_ok=True)
    return home / "runs" / finished.name


def runs_of(client: MlflowClient) -> tuple[list[Run], list[Run]]:
    """Returns (parents, nested runs) of the experiment, oldest first."""
    found = client.search_runs([client.get_experiment_by_name("mdp").experiment_id], order_by=["attributes.start_time ASC"])
    return [r for r in found if PARENT not in r.data.tags], [r for r in found if PARENT in r.data.tags]


def histories(client: MlflowClient, parent: Run, nested: list[Run]) -> dict[str, list[tuple[str, int, float]]]:
    """Returns step id (or ``run``) → (metric, step, value) of all points, but for seconds."""
    runs = {"run": parent} | {r.info.run_name: r for r in nested if r.data.tags[PARENT] == parent.info.run_id}
    return {
        name: sorted(
            (key, m.step, m.value)
            for key in run.data.metrics
            if key != "seconds"
            for m in client.get_metric_history(run.info.run_id, key)
        )
        for name, run in runs.items()
    }


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Waits for a condition.

    Raises:
        TimeoutError: It did not come true.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)
