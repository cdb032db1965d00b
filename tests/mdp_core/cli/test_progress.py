from __future__ import annotations

import io
import time
from pathlib import Path

from rich.console import Console

from mdp_core.cli.progress import ConsoleProgress
from mdp_core.plugins.hookspecs import RunInfo, RunOutcome, StepInfo, StepResult

FIRST = StepInfo("prior.mine[train]", "prior", "mine", "dino", "k1")
SECOND = StepInfo("detector.fit", "detector", "fit", "mask-rcnn", "k2", "iterations")
RUN = RunInfo("id", "name", Path("/runs/id"), Path("/"), 3, {}, (FIRST, SECOND))


def play(console: Console, pause: float = 0.0) -> None:
    progress = ConsoleProgress(console)
    progress.mdp_run_started(RUN)
    progress.mdp_step_finished(FIRST, StepResult("hit", 12.0))
    progress.mdp_step_started(SECOND)
    progress.mdp_step_progress(SECOND, 10, 100, {"loss": 0.5})
    time.sleep(pause)  # the live display draws ten times a second
    progress.mdp_step_finished(SECOND, StepResult("done", 3.25, {"weights": "builtin:x (untrained)"}))
    progress.mdp_run_finished(RunOutcome("finished", 4.0))


def test_plain_lines_where_there_is_no_terminal() -> None:
    output = io.StringIO()
    play(Console(file=output, width=200))
    text = output.getvalue()
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0].startswith("name  seed 3 · 2 steps")
    assert lines[1].split() == ["=", "prior.mine[train]", "dino", "in", "the", "store"]
    assert lines[2].split() == ["…", "detector.fit", "mask-rcnn"]
    assert lines[3].split() == ["✓", "detector.fit", "mask-rcnn", "3.2", "s", "builtin:x", "(untrained)"]


def test_a_live_line_at_a_terminal() -> None:
    output = io.StringIO()
    play(Console(file=output, width=200, force_terminal=True), pause=0.3)
    text = output.getvalue()
    assert "detector.fit" in text
    assert "10/100" in text
    assert "loss 0.5" in text
    assert "3.2 s" in text
