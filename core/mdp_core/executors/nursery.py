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
import signal
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
    later, wards = list(LATER), _Wards(own)
    while True:
        ready = select.select([own.fileno(), wards.wake], [], [], 0 if later else None)[0]
        if not ready:
            with suppress(Exception):
                importlib.import_module(later.pop(0))
        if wards.wake in ready:
            wards.reap()
        if own.fileno() not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(own, _LONGEST, 2)
        if not message:
            return
        request = json.loads(message)
        if "wait" in request:
            wards.await_end(request)
            continue
        nursery = os.getpid()
        pid = os.fork()
        if pid == 0:
            own.close()
            wards.leave()
            _become_worker(request, descriptors, nursery)
        for descriptor in descriptors:
            os.close(descriptor)
        _answer(own, request, pid)


class _Wards:
    """The workers: how they ended, and who waits to hear it.

    What a worker started (data loaders) holds its pipes, and the engine takes their end for the worker's: so it is killed with it.
    """

    def __init__(self, own: socket.socket) -> None:
        self._own = own
        self._ended: dict[int, int] = {}
        self._awaited: dict[int, dict[str, Any]] = {}
        self.wake, self._signalled = os.pipe()
        os.set_blocking(self._signalled, False)
        os.set_blocking(self.wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._signalled, warn_on_full_buffer=False)

    def reap(self) -> None:
        """Buries the dead, kills what they started, and answers those who wait for them."""
        with suppress(BlockingIOError):
            os.read(self.wake, 4096)
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                self._ended[pid] = os.waitstatus_to_exitcode(status)
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)  # a worker leads a session of its own
        for pid in self._awaited.keys() & self._ended.keys():
            _answer(self._own, self._awaited.pop(pid), self._ended[pid])

    def await_end(self, request: dict[str, Any]) -> None:
        """Answers a request to wait, now or when the worker ends."""
        self._awaited[request["wait"]] = request
        self.reap()

    def leave(self) -> None:
        """Takes leave, in a process that was just forked."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self.wake)
        os.close(self._signalled)


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
    forked_by_main, parent = False, 0

    def before() -> None:
        nonlocal forked_by_main, parent
        forked_by_main = threading.current_thread() is threading.main_thread()
        parent = os.getpid()  # not os.getppid() in the child: the parent may be dead by then

    def in_child() -> None:
        if forked_by_main:  # the system's signal comes when the thread that forked ends
            die_with_parent(parent)

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
