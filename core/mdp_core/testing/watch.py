"""Watches what a plugin does beside its work: prints, warnings, and what it changes in the process."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Watched:
    """What was seen.

    Attributes:
        printed: What went to stdout.
        warnings: Runtime warnings, each with the place that it points to.
        changed: What of the process is not as it was, in words.
    """

    printed: str = ""
    warnings: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


@contextmanager
def watching(seen: Watched) -> Iterator[None]:
    """Watches what happens inside; leaves the process as it was before."""
    before = _states()
    with _stdout(seen), warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            after = _states()
    for name, (value, restore) in before.items():
        if name in after and not _equal(value, after[name][0]):
            seen.changed.append(f"{name}{_difference(value, after[name][0])}")
            restore(value)
    seen.warnings += [
        f"{w.category.__name__}: {w.message} ({w.filename}:{w.lineno})"
        for w in raised
        if issubclass(w.category, RuntimeWarning)
    ]


@contextmanager
def _stdout(seen: Watched) -> Iterator[None]:
    """Takes what Python and what libraries in C write to stdout."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        sys.stdout.flush()
        saved = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            with redirect_stdout(file):
                yield
        finally:
            file.flush()
            os.dup2(saved, 1)
            os.close(saved)
            file.seek(0)
            seen.printed += file.read()


State = tuple[Any, Callable[[Any], Any]]


def _states() -> dict[str, State]:
    """Returns what belongs to the whole process: its value, and how to put it back. Of libraries, those that are imported."""
    states: dict[str, State] = {
        "the state of the module random": (random.getstate(), random.setstate),
        "the state of np.random": (np.random.get_state(legacy=False), np.random.set_state),  # noqa: NPY002 - this is the state that is watched
        "numpy's error settings (np.seterr)": (np.geterr(), lambda old: np.seterr(**old)),
        "the working directory": (os.getcwd(), os.chdir),
        "environment variables": (dict(os.environ), _set_environment),
    }
    if torch := sys.modules.get("torch"):
        states |= {
            "torch's random state": (
                torch.get_rng_state().numpy().copy(),
                lambda old: torch.set_rng_state(torch.from_numpy(old)),
            ),
            "torch's number of threads": (torch.get_num_threads(), torch.set_num_threads),
            "torch's default dtype": (torch.get_default_dtype(), torch.set_default_dtype),
            "whether torch computes gradients": (torch.is_grad_enabled(), torch.set_grad_enabled),
            "torch's deterministic algorithms": (
                torch.are_deterministic_algorithms_enabled(),
                torch.use_deterministic_algorithms,
            ),
        }
    if cv2 := sys.modules.get("cv2"):
        states["OpenCV's number of threads"] = (cv2.getNumThreads(), cv2.setNumThreads)
    return states


def _set_environment(old: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(old)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else bool(a == b)


def _difference(a: Any, b: Any) -> str:
    if isinstance(a, dict) and all(isinstance(v, str) for v in a.values()):
        keys = sorted(key for key in {*a, *b} if a.get(key) != b.get(key))
        return ": " + ", ".join(f"{key}={b[key]}" if key in b else f"{key} is gone" for key in keys)
    return f": {b} instead of {a}" if isinstance(a, int | str | bool) else ""
