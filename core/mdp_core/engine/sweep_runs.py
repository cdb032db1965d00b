"""Makes the runs of a sweep: child processes, several side by side, that outlive neither Ctrl-C nor the sweep."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from mdp_core.engine.record import RunRecord
from mdp_core.engine.store import disk_errors
from mdp_core.engine.sweep import Member, MemberState, Sweep, SweepState
from mdp_core.errors import RunError

_POLL_SECONDS = 0.1
_LOOK_SECONDS = 1.0
_GRACE_SECONDS = 30.0
_PR_SET_PDEATHSIG = 1
_TAIL_BYTES = 4096


class SweepListener(Protocol):
    """Is told how a sweep goes on."""

    def started(self, state: MemberState) -> None:
        """A run begins."""

    def ended(self, state: MemberState) -> None:
        """A run is over; its status and its error say how."""

    def running(self, runs: Sequence[tuple[MemberState, str, float]]) -> None:
        """Runs go on: of each its state, where it is (``detector.fit 5/18``), and for how many seconds."""


@dataclass
class _Run:
    """One child process."""

    member: Member
    state: MemberState
    process: subprocess.Popen[bytes]
    before: frozenset[str]
    started: float = field(default_factory=time.monotonic)
    record: RunRecord | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def where(self) -> str:
        if self.record is None or not self.record.planned:
            return "starting"
        done, planned = len(self.record.steps), self.record.planned
        return f"{planned[done] if done < len(planned) else 'results'} {done}/{len(planned)}"


class SweepRunner:
    """Makes the runs that are not finished yet.

    Args:
        arguments: Further arguments of each ``mdp run``.
        jobs: How many runs at once.
        keep_going: Whether further runs start after one failed.
    """

    def __init__(
        self, sweep: Sweep, state: SweepState, listener: SweepListener, arguments: Sequence[str], *, jobs: int, keep_going: bool
    ) -> None:
        self.sweep, self.state, self.listener = sweep, state, listener
        self.arguments, self.jobs, self.keep_going = arguments, jobs, keep_going
        states = {m.number: m for m in state.members}
        self._waiting = [(m, states[m.number]) for m in sweep.members if states[m.number].status != "finished"]
        self._running: list[_Run] = []
        self._made: set[str] = set()
        self._looked = 0.0

    def go(self) -> None:
        """Makes the runs; returns when all are over, or, after a failure, when those under way are.

        Raises:
            KeyboardInterrupt: The person ended it; by then the children have ended too.
        """
        try:
            while self._running or (self._waiting and not self._stopped):
                while self._waiting and len(self._running) < self.jobs and not self._stopped:
                    self._start(*self._next())
                time.sleep(_POLL_SECONDS)
                self._look()
                for run in [r for r in self._running if r.process.poll() is not None]:
                    self._end(run)
        except BaseException:
            self._interrupt()
            raise

    @property
    def _stopped(self) -> bool:
        return not self.keep_going and any(m.status in ("failed", "interrupted") for m in self.state.members)

    def _next(self) -> tuple[Member, MemberState]:
        """Takes the run that shares least with those under way; among such, the one whose work most others wait for."""

        def to_do(member: Member) -> frozenset[str]:
            return member.missing - self._made

        busy = frozenset[str]().union(*(to_do(r.member) for r in self._running))
        wanted: dict[str, int] = {}
        for member, _ in self._waiting:
            for key in to_do(member):
                wanted[key] = wanted.get(key, 0) + 1

        def rank(item: tuple[Member, MemberState]) -> tuple[int, int, int]:
            keys = to_do(item[0])
            return len(keys & busy), -sum(wanted[key] - 1 for key in keys - busy), item[0].number

        chosen = min(self._waiting, key=rank)
        self._waiting.remove(chosen)
        return chosen

    def _start(self, member: Member, state: MemberState) -> None:
        folder = self.sweep.folder
        command = [
            sys.executable, "-m", "mdp_core.cli.main", "run", str(folder / f"{member.number}.yaml"),
            "--home", str(self.sweep.home), "--sweep-member", self.sweep.tag(member), *self.arguments,
        ]  # fmt: skip
        before = frozenset(_run_names(self.sweep.home))
        with disk_errors(folder), (folder / state.log).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the sweep alone, which then ends its runs
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - a sweep has one thread
            )
        self._running.append(_Run(member, state, process, before))
        state.status, state.error, state.run = "running", None, None
        self.state.save()
        self.listener.started(state)

    def _look(self) -> None:
        """Reads how far the runs are, now and then."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        for run in self._running:
            self._read(run)
        self.listener.running([(r.state, r.where(), r.seconds) for r in self._running])

    def _read(self, run: _Run) -> None:
        """Finds the record of a run, and notes the steps that are made by now."""
        folders = [run.record.folder.name] if run.record else sorted(_run_names(self.sweep.home) - run.before)
        for name in folders:
            with suppress(RunError):
                record = RunRecord.read(self.sweep.home / "runs" / name)
                if record.sweep == self.sweep.tag(run.member):
                    run.record = record
        if run.record is not None:
            run.state.run = run.record.id
            self._made |= {step.key for step in run.record.steps if step.status in ("hit", "done")}

    def _end(self, run: _Run) -> None:
        self._read(run)
        self._running.remove(run)
        state, code = run.state, run.process.wait()
        state.seconds = round(run.seconds, 2)
        state.status = "finished"
        if code != 0 or run.record is None or run.record.status != "finished":
            state.status = "interrupted" if run.record is not None and run.record.status == "interrupted" else "failed"
            state.error = (run.record and run.record.error) or _last_words(self.sweep.folder / state.log, code)
        elif {step.key for step in run.record.steps} != run.member.keys:
            state.status = "failed"
            state.error = "images or plugins changed while the sweep was under way; the same command makes a new sweep"
        self.state.save()
        self.listener.ended(state)

    def _interrupt(self) -> None:
        """Asks the children to end, and waits until they have noted it; a second Ctrl-C does not wait."""
        for run in self._running:
            run.process.terminate()
        deadline = time.monotonic() + _GRACE_SECONDS
        try:
            for run in self._running:
                with suppress(subprocess.TimeoutExpired):
                    run.process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for run in self._running:
                if run.process.poll() is None:
                    run.process.kill()
                    run.process.wait()
                self._read(run)
                run.state.status, run.state.seconds = "interrupted", round(run.seconds, 2)
            self.state.save()


@contextmanager
def locked(sweep: Sweep) -> Iterator[None]:
    """Holds the lock of a sweep, so that no second process makes the same runs.

    Raises:
        RunError: The sweep is under way in another process.
    """
    with disk_errors(sweep.folder):
        sweep.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(sweep.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(f"the sweep {sweep.id} is under way in another process", hint="wait for it, or end it") from None
    try:
        yield
    finally:
        lock.release()


def _run_names(home: Path) -> set[str]:
    with suppress(FileNotFoundError):
        return set(os.listdir(home / "runs"))
    return set()


def _last_words(log: Path, code: int) -> str:
    """Returns what a run that left no error in its record said last: from the last ``error:`` on, else its last line."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        text = file.read().decode("utf-8", "replace")
        _, found, message = text.rpartition("error: ")
        lines = [line for line in (message if found else text).splitlines() if line.strip()]
        if lines:
            return "\n".join(lines[:8] if found else lines[-1:])
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """In a child, before it becomes ``mdp run``: it is told to end when the sweep is killed."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
