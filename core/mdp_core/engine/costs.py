"""What the stages of a run cost: seconds, images a second, and memory. Measured when the results were made, on whatever machine that was."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mdp_core.engine.record import StepRecord

PEAK_MEMORY = "peak_memory"
"""Name of the note with which a task tells the engine its process's peak memory, in bytes."""
_PACE = {
    "prior": "mine", "clusterer": "embed", "detector": "predict", "refiner": "refine", "segmenter": "predict", "probe": "predict"
}  # fmt: skip
"""Kind of stage → the step whose images a second are the stage's."""


def begin_peak() -> None:
    """Forgets the peak of this process's memory so far, where the system can do that (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory() -> int:
    """Returns the peak of this process's resident memory since ``begin_peak``, in bytes: libraries and weights included, a GPU's not.

    Linux's own figure is read where there is one: that of ``getrusage`` also counts the process that this one was started from.
    """
    with suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def costs(steps: Iterable[StepRecord]) -> dict[str, float]:
    """Returns what each stage cost, evaluations aside, under names like those of metrics.

    Returns:
        ``STAGE.seconds`` of all its steps; ``STAGE.images_per_second`` of the step that works on its images (start of the process
        and loading of weights included); ``STAGE.peak_gib``, the largest peak of resident memory of any process of the stage.
        What was not recorded is left out.
    """
    seconds: dict[str, float] = {}
    images: dict[str, tuple[int, float]] = {}
    peak: dict[str, int] = {}
    for step in steps:
        if step.kind == "evaluate":
            continue
        seconds[step.stage] = seconds.get(step.stage, 0.0) + step.seconds
        peak[step.stage] = max(peak.get(step.stage, 0), step.peak_memory)
        if step.step == _PACE.get(step.kind) and step.images and step.seconds:
            done, spent = images.get(step.stage, (0, 0.0))
            images[step.stage] = done + step.images, spent + step.seconds
    return {
        **{f"{stage}.seconds": value for stage, value in seconds.items()},
        **{f"{stage}.images_per_second": done / spent for stage, (done, spent) in images.items()},
        **{f"{stage}.peak_gib": value / 2**30 for stage, value in peak.items() if value},
    }
