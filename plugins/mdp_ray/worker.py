"""A worker: a process that Ray starts somewhere, does tasks one after the other and keeps plugins and their weights between them."""

from __future__ import annotations

import os
import platform
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from mdp_core.api import StageError, Task
from mdp_ray.events import Failure, Messenger

_PREFIXES = ("MDP_", "HF_")
_NAMES = ("TORCH_HOME", "XDG_CACHE_HOME", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


def environment() -> dict[str, str]:
    """Returns the variables of this process that its workers shall have, wherever they run."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(_PREFIXES) or name in _NAMES}
    return {"GOMP_SPINCOUNT": "10000", **kept}  # see mdp_core/executors/worker_process.py


def version() -> str:
    """Returns what has to be the same on all machines."""
    return f"mdp {metadata.version('mdp-platform')} on Python {'.'.join(platform.python_version_tuple()[:2])}"


def print_to(log: Path) -> None:
    """Lets all that this process prints go to the end of ``log``, also what libraries print that are not Python.

    Raises:
        StageError: This machine does not see the folder of the log.
    """
    if not log.parent.is_dir():
        raise StageError(
            f"the machine {platform.node()} of the Ray cluster does not see {log.parent}",
            hint="put MDP_HOME (--home) on a filesystem that all machines of the cluster mount under the same path",
        )
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for target in (1, 2):
        os.dup2(descriptor, target)
    os.close(descriptor)


class Worker:
    """The actor.

    Args:
        variables: Environment variables of the engine's process, see ``environment``.
        version: ``version()`` of the engine's process.
    """

    def __init__(self, variables: Mapping[str, str], version: str) -> None:
        os.environ.update(variables)
        self._wanted = version

    def ready(self) -> Failure | None:
        """Returns why this machine cannot do tasks of the engine's."""
        if version() == self._wanted:
            return None
        return Failure(
            f"the machine {platform.node()} of the Ray cluster has {version()}, this one has {self._wanted}",
            "install the same versions on all machines of the cluster",
        )

    def do(self, task: Task, log: str, mailbox: Any) -> Failure | None:
        """Does one task; whatever it raises is returned, so that Ray sees lost processes alone as errors."""
        try:
            print_to(Path(log))
            with Messenger(mailbox, task.id) as listener:
                task.do(listener)
        except (Exception, SystemExit) as error:
            with suppress(OSError):
                traceback.print_exc()
            return Failure.of(error)
        finally:
            with suppress(OSError):
                sys.stdout.flush()
        return None
