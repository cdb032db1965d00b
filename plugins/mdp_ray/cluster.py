"""The cluster: connecting to one that is there, or starting one of this machine on the loopback interface alone."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from mdp_core.api import PluginError, StageError

_PATIENCE = 10.0
"""Seconds that a cluster may take to answer."""
_MEGABYTE = 2**20
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # 127.0.0.1 stays 127.0.0.1: Ray would otherwise listen on all interfaces
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a worker without a GPU sees none
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_worker_niceness": "0",  # workers of a local cluster are no less than those of other executors (Ray: 15)
}
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""What a client of HTTP/2, and so of gRPC, says first; the server answers with a frame of type 4 of its own."""


@dataclass(frozen=True)
class Node:
    """One machine of the cluster: what it has in all, whoever uses it."""

    cpus: float
    gpus: float

    def holds(self, cpus: float, gpus: float) -> int:
        """Returns how many workers of this size fit."""
        by_cpus = int(self.cpus // cpus)
        return by_cpus if gpus == 0 else min(by_cpus, int(self.gpus // gpus))


def import_ray() -> Any:
    """Imports Ray, told to be quiet.

    Raises:
        PluginError: It is not installed.
    """
    if find_spec("ray") is None:
        raise PluginError(
            "the executor 'ray' needs the package ray, which is not installed", hint="pip install 'mdp-platform[ray]'"
        )
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False  # as the variable above says, where somebody has imported Ray before
    return ray


def connect(address: str | None, cpus: int | None) -> bool:
    """Connects this process to a cluster, unless it is connected.

    Args:
        address: As in ``RayConfig``.
        cpus: How many CPUs a local cluster has to offer at least; None: those of this machine.

    Returns:
        Whether this call connected; ``ray.shutdown()`` then ends the connection, and the cluster where it was started here.

    Raises:
        StageError: The cluster cannot be reached, or not be used.
    """
    ray = import_ray()
    if ray.is_initialized():
        return False
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    if target not in ("local", "auto"):
        _check_answers(target)
    options: dict[str, Any] = {"address": target, "log_to_driver": False, "logging_level": logging.FATAL}
    if target == "local":
        cpus = max(cpus or 0, os.cpu_count() or 1)
        options |= {"include_dashboard": False, "num_cpus": cpus, "object_store_memory": 100 * _MEGABYTE}
    try:
        with _own_sigterm():
            ray.init(**options)
    except KeyboardInterrupt:
        ray.shutdown()
        raise
    except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StageError(f"cannot use the Ray cluster {target!r}: {reason}", hint=_remedy(target)) from error
    ray._private.worker._worker_logs_enabled = False  # what Ray says of lost workers; its log_to_driver does not cover that
    return True


def on_loopback() -> bool:
    """Returns whether all machines of the cluster are this one, and speak over the loopback interface."""
    return all(node["NodeManagerAddress"] == "127.0.0.1" for node in import_ray().nodes() if node["Alive"])


def nodes() -> list[Node]:
    """Returns the machines that are there at the moment."""
    ray = import_ray()
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in alive]


def here() -> Any:
    """Returns the scheduling strategy that keeps an actor on this process's machine, which no lost machine takes along."""
    ray = import_ray()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def wait(references: Sequence[Any], seconds: float, count: int = 1) -> list[Any]:
    """Returns which of the references have come to an end; waits for ``count`` of them, but not longer than that.

    Raises:
        KeyboardInterrupt: The person ended the run, also where Ray's core mangles it.
    """
    try:
        return import_ray().wait(list(references), num_returns=count, timeout=seconds)[0]
    except SystemError as error:
        raise error.__cause__ or KeyboardInterrupt from None


def _check_answers(target: str) -> None:
    """Asks whether a gRPC server listens there; Ray itself would wait for minutes, and then end this process."""
    if "://" in target:
        raise StageError(
            f"the Ray cluster {target!r}: connections through the Ray Client are not supported",
            hint="run mdp on a machine of the cluster, with executor.address: HOST:PORT of its head (mostly port 6379) or auto",
        )
    host, _, port = target.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise StageError(f"executor.address {target!r} is not an address", hint="write HOST:PORT, auto or local")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE) as connection:
            connection.sendall(_HTTP2)
            answer = connection.recv(9)
    except OSError as error:
        raise StageError(f"there is no Ray cluster at {target}: {error.strerror or error}", hint=_remedy(target)) from error
    if len(answer) < 4 or answer[3] != 4:
        raise StageError(f"what listens at {target} is not Ray", hint=_remedy(target))


def _remedy(target: str) -> str:
    if target == "local":
        return "Ray's own logs lie in /tmp/ray/session_latest/logs; `mdp run --executor process` needs no Ray"
    return "is it up (`ray status` on this machine)? Its address is executor.address in the recipe, or RAY_ADDRESS"


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keeps this process's answer to SIGTERM, which Ray would replace by its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
