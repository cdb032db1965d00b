"""The nursery: a process that has imported what all workers need, and forks them in milliseconds.

A fresh interpreter takes half a second until it can do a task, and each stage has a worker of its own. The nursery imports
numpy, pyarrow and the engine's data types once (never torch, whose threads do not survive a fork), and each worker starts as a
copy of it. It speaks over a socket: a request to fork carries the worker's pipes, a request to wait returns an exit code. It
ends with the engine, and the workers end with it, however the engine ends.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mdp_core.errors import StageError
from mdp_core.executors.worker import die_with_parent, serve
from mdp_core.plugins.loader import load_plugins

PRELOAD = ("mdp_core.engine.execute", "mdp_core.engine.evaluate")
"""What workers need whatever they do; imported by name, as the engine stands above the executors."""
LATER = ("pandas", "scipy.optimize", "cv2")
"""What many workers need (pyarrow imports pandas where it is installed), imported while nobody waits for one."""
_LONGEST = 1 << 20


class Nursery:
    """The engine's side: starts the nursery process and asks it for workers."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._asked = 0
        self._socket = ours
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mdp_core.executors.nursery", str(theirs.fileno()), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C reaches the engine alone
        )
        theirs.close()

    def fork(self, log: Path, commands: int, events: int, environment: Mapping[str, str]) -> int:
        """Starts a worker and returns its process id.

        Args:
            log: Takes what it prints.
            commands: File descriptor where it reads its tasks.
            events: File descriptor where it tells of them.
            environment: Laid over the environment.
        """
        return self._ask({"log": str(log), "environment": dict(environment)}, [commands, events])

    def wait(self, pid: int) -> int:
        """Waits until a worker has ended and returns its exit code, negative for a signal."""
        return self._ask({"wait": pid})

    def _ask(self, request: Mapping[str, Any], descriptors: Sequence[int] = ()) -> int:
        """Sends a request and returns its answer; passes over answers that a Ctrl-C kept somebody from reading.

        Raises:
            StageError: The nursery has been killed.
        """
        with self._lock:
            self._asked += 1
            number = self._asked
            with suppress(BrokenPipeError, ConnectionResetError):
                socket.send_fds(self._socket, [json.dumps({"number": number, **request}).encode()], descriptors)
                while message := self._socket.recv(_LONGEST):
                    answer = json.loads(message)
                    if answer["number"] == number:
                        return int(answer["value"])
        raise StageError(
            "the process that starts workers is gone",
            hint="most often the machine ran out of memory; what is finished is kept: run the same command again",
        )

    def close(self) -> None:
        """Ends the nursery, and with it all its workers."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


def main() -> None:
    """Forks workers until the engine closes the socket."""
    die_with_parent(int(sys.argv[2]))
    own = socket.socket(fileno=int(sys.argv[1]))
    with suppress(Exception):  # a worker that needs what is broken says so
        for module in PRELOAD:
            importlib.import_module(module)
        load_plugins()  # their modules and settings, which each worker asks for again
    later, ended = list(LATER), dict[int, int]()
    while True:
        while later and not select.select([own], [], [], 0)[0]:
            with suppress(Exception):
                importlib.import_module(later.pop(0))
        message, descriptors, _, _ = socket.recv_fds(own, _LONGEST, 2)
        if not message:
            return
        request = json.loads(message)
        if "wait" in request:
            pid = request["wait"]
            if pid not in ended:
                ended[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            _answer(own, request, ended[pid])
            continue
        nursery = os.getpid()
        pid = os.fork()
        if pid == 0:
            own.close()
            _become_worker(request, descriptors, nursery)
        for descriptor in descriptors:
            os.close(descriptor)
        _answer(own, request, pid)


def _answer(own: socket.socket, request: Mapping[str, Any], value: int) -> None:
    own.send(json.dumps({"number": request["number"], "value": value}).encode())


def _become_worker(request: Mapping[str, Any], descriptors: list[int], nursery: int) -> None:
    code = 1
    try:
        os.setsid()
        die_with_parent(nursery)
        log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for source, target in ((descriptors[0], 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.environ.update(request["environment"])
        _bound_threads(request["environment"])
        _take_children_along()
        with os.fdopen(descriptors[1], "w", encoding="utf-8") as events, open(0, encoding="utf-8", closefd=False) as commands:
            serve(commands, events)
        code = 0
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _take_children_along() -> None:
    """Lets processes that the worker forks (data loaders) end with it; they hold its pipes, and may wait for each other for ever."""
    forked_by_main = False

    def before() -> None:
        nonlocal forked_by_main
        forked_by_main = threading.current_thread() is threading.main_thread()

    def in_child() -> None:
        if forked_by_main:  # the system's signal comes when the thread that forked ends
            die_with_parent(os.getppid())

    os.register_at_fork(before=before, after_in_child=in_child)


def _bound_threads(environment: Mapping[str, str]) -> None:
    """Bounds the threads of libraries that were loaded before the fork; those loaded later read the environment."""
    count = environment.get("OMP_NUM_THREADS")
    if count is not None:
        with suppress(ImportError, ValueError):
            import threadpoolctl

            threadpoolctl.threadpool_limits(int(count))


if __name__ == "__main__":
    main()
