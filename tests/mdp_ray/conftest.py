"""A real cluster of two machines, both on 127.0.0.1: one stays, the other can be taken away."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("ray") is None:
    collect_ignore_glob = ["test_*.py"]

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the tasks' functions, here
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))  # and on the machines
os.environ.pop("RAY_ADDRESS", None)

from mdp_core.api import Task  # noqa: E402
from mdp_ray.cluster import import_ray  # noqa: E402
from mdp_ray.executor import RayExecutor  # noqa: E402
from mdp_ray.settings import RayConfig  # noqa: E402

_MACHINE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "include_dashboard": False, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """One machine of one CPU."""
    import_ray()
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args=_MACHINE)
    yield made
    made.shutdown()


@pytest.fixture
def second(cluster: Any) -> Iterator[Any]:
    """The other machine."""
    node = cluster.add_node(**_MACHINE)
    yield node
    if node in cluster.worker_nodes:
        cluster.remove_node(node)


@pytest.fixture
def executor(cluster: Any) -> Iterator[Any]:
    """Makes executors on the cluster."""
    made: list[RayExecutor] = []

    def make(**settings: Any) -> RayExecutor:
        made.append(RayExecutor(RayConfig(address=cluster.address, **settings)))
        return made[-1]

    yield make
    for one in reversed(made):  # the first one connected this process
        one.close()


class Recorder:
    """Remembers what it hears; ``react`` is called at each progress."""

    def __init__(self, react: Any = None) -> None:
        self.react = react
        self.events: list[tuple[str, int, int, dict[str, float]]] = []
        self.notes: dict[str, str] = {}
        self.warnings: list[str] = []

    def progress(self, task: Task, done: int, total: int, metrics: Mapping[str, float]) -> None:
        self.events.append((task.id, done, total, dict(metrics)))
        if self.react is not None:
            self.react()

    def note(self, task: Task, name: str, value: str) -> None:
        self.notes[f"{task.id} {name}"] = value

    def warn(self, task: Task, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder
