"""Checks of a plugin's manners: what it does beside its work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from mdp_core.testing.registry import LEARNERS, MAKERS, check
from mdp_core.testing.report import CheckFailedError, CheckSkippedError, said
from mdp_core.testing.samples import plain, tiny
from mdp_core.testing.trial import Trial
from mdp_core.testing.watch import Watched, watching


@check(*MAKERS, "pretrainer")
def inputs_are_left_alone(trial: Trial) -> None:
    """Pixels, masks and label maps that it is given are the same afterwards: datasets may keep them, and others read them too."""
    trial.worked  # noqa: B018
    if trial.baseline.inputs:
        raise CheckFailedError(
            f"{trial.baseline.inputs}: it wrote into what it was given", "work on a copy: pixels = pixels.copy()"
        )


@check(*MAKERS, "pretrainer")
def the_process_is_left_alone(trial: Trial) -> None:
    """Global random states, thread counts, error settings, environment and working directory stay: other stages share the process."""
    if trial.worked.watched.changed:
        raise CheckFailedError(
            f"it changed {'; '.join(trial.worked.watched.changed)}",
            "use generators of your own instead of global seeds; what has to change, put back when done (also when it fails)",
        )


@check(*MAKERS, "pretrainer")
def prints_nothing(trial: Trial) -> None:
    """Nothing is printed to stdout: it belongs to the command (--json), and in a worker to the engine; facts go to the listener."""
    printed = trial.worked.watched.printed
    if printed.strip():
        first = printed.strip().splitlines()[0][:100]
        raise CheckFailedError(
            f"it printed {len(printed.splitlines())} lines, the first: {first!r}",
            "use context.listener.note, .warn or .progress, or the logging module (stderr)",
        )


@check(*MAKERS)
def no_runtime_warnings(trial: Trial) -> None:
    """No RuntimeWarning, also with tiny and plain images: a division by zero or a NaN that goes unnoticed is in the result."""
    seen = Watched()
    with watching(seen):
        for samples in (tiny(), plain()):
            try:
                trial.make(samples, trial.worked.fitted)
            except Exception:
                continue  # that it fails is for another check to tell
    found = [*trial.worked.watched.warnings, *seen.warnings]
    if found:
        raise CheckFailedError(
            found[0], "find the value that is zero or empty, and decide what the answer is then; do not silence it"
        )


@check(*MAKERS)
def stays_on_its_device(trial: Trial) -> None:
    """With context.device "cpu" it works on the CPU, also where torch sees a GPU: the recipe decides, several processes share the GPU."""
    torch = sys.modules.get("torch")
    base = trial.worked
    if torch is None:
        raise CheckSkippedError("it does not use torch")
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        with watching(Watched()):
            trial.make(base.samples.at([0, 1]), base.fitted)
        used = torch.cuda.max_memory_allocated() - before
        if used > 0:
            raise CheckFailedError(f"it used {used:,} bytes of the GPU", _DEVICE)
        return
    with _a_gpu_in_sight(), watching(Watched()):
        try:
            trial.make(base.samples.at([0, 1]), base.fitted)
        except Exception as error:
            raise CheckFailedError(f"with a GPU in sight it fails on device cpu: {said(error)}", _DEVICE) from error


_DEVICE = "take context.device, not torch.cuda.is_available()"


@contextmanager
def _a_gpu_in_sight() -> Iterator[None]:
    """Lets torch say that there is a GPU; who goes to it fails."""
    with patch("torch.cuda.is_available", return_value=True), patch("torch.cuda.device_count", return_value=1):
        yield


@check(*LEARNERS, "pretrainer")
def fit_writes_into_its_folders_alone(trial: Trial) -> None:
    """A training writes into the two folders that it is given, and nowhere else: what lies elsewhere is not part of the result."""
    if trial.worked.strays:
        raise CheckFailedError(
            f"it left {', '.join(trial.worked.strays[:3])}",
            "write below folder (the result) and work (to resume), never into the working directory",
        )


@check(*LEARNERS)
def predicting_leaves_the_model_alone(trial: Trial) -> None:
    """Prediction changes no file of the model and adds none: the store holds its files by their hashes."""
    if trial.worked.rewrote:
        raise CheckFailedError(
            f"prediction changed {', '.join(trial.worked.rewrote[:3])}", "keep caches in memory or a temporary folder"
        )
