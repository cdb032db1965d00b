"""The MLflow observer: starts the follower of a run, and waits a little for it when the run is over.

run.json and the journal stay the truth about a run; what is tracked can be thrown away and sent again.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
import warnings
from pathlib import Path

from mdp_core.api import MdpWarning, Observer, RunInfo, hookimpl
from mdp_mlflow.settings import MlflowConfig
from mdp_mlflow.state import LOG, State

_TICK = 0.02
_PATIENCE = 1.0
"""Seconds after the end of a run in which a server that does not answer may come back."""


class MlflowObserver(Observer):
    """Tracks a run.

    Args:
        config: Tracking store and experiment.
    """

    config: MlflowConfig

    def __init__(self, config: MlflowConfig) -> None:
        super().__init__(config)
        self._follower: subprocess.Popen[bytes] | None = None

    @hookimpl
    def mdp_run_started(self, run: RunInfo) -> None:
        """Starts the follower, in a session of its own: Ctrl-C is meant for the run."""
        State(self.config.model_dump(mode="json")).save(run.folder)
        (run.folder / LOG).parent.mkdir(exist_ok=True)
        command = [sys.executable, "-P", "-m", "mdp_mlflow.follow", str(run.folder)]
        command += ["--parent", str(os.getpid()), "--patience", str(min(self.config.wait, _PATIENCE))]
        with (run.folder / LOG).open("wb") as log:
            self._follower = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    @hookimpl
    def mdp_run_finished(self, run: RunInfo) -> None:
        """Waits until everything is sent; says so where it is not."""
        if self._follower is None:
            return
        deadline = time.monotonic() + self.config.wait
        while True:
            ended = self._follower.poll() is not None  # asked before its last words are read
            state = State.read(run.folder) or State()
            if state.complete:
                return
            if ended or time.monotonic() > deadline:
                break
            time.sleep(_TICK)
        place = state.uri or "MLflow"
        if state.error or ended:
            problem = state.error or f"its process ended (code {self._follower.returncode}), see {run.folder / LOG}"
            text = f"{place} does not have all of this run: {problem}. The run itself is unharmed; what is missing is sent by"
        else:
            text = f"{place} is slow: the rest of this run is sent in the background. Should that break off, it is sent by"
        warnings.warn(f"{text}\n  {_command(run)}", MdpWarning, stacklevel=1)


def _command(run: RunInfo) -> str:
    """Returns the command that sends the rest, from here."""
    home = Path(os.environ.get("MDP_HOME") or ".mdp").expanduser().absolute()
    return shlex.join(["mdp", "track", "sync", run.id, *(["--home", str(run.home)] if run.home != home else [])])
