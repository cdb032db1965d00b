from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
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


def test_plain_lines_tell_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    output = io.StringIO()
    progress = ConsoleProgress(Console(file=output, width=200))
    progress.mdp_step_started(SECOND)
    progress.mdp_step_progress(SECOND, 500, 1000, {"loss": 0.5})  # resumed: its first 500 took no time here
    for done, metrics in ((510, {"loss": 0.25}), (520, {}), (900, {"loss": 0.125})):
        now[0] += 60.0
        progress.mdp_step_progress(SECOND, done, 1000, metrics)
    assert [line.split(maxsplit=1)[1] for line in output.getvalue().splitlines()[1:]] == [
        "510/1000 iterations left 49 min loss 0.25",
        "520/1000 iterations left 48 min loss 0.25",
        "900/1000 iterations left 45 s loss 0.125",
    ]
    progress.mdp_step_finished(SECOND, StepResult("done", 3.25))
    progress.mdp_step_started(FIRST)
    now[0] += 20.0
    progress.mdp_step_progress(FIRST, 1, 8, {})
    assert output.getvalue().splitlines()[-1].split() == [FIRST.id, "1/8", "images"], "nothing stays from the step before"


def test_a_bar_keeps_the_last_numbers() -> None:
    output = io.StringIO()
    progress = ConsoleProgress(Console(file=output, width=200, force_terminal=True))
    progress.mdp_step_started(SECOND)
    progress.mdp_step_progress(SECOND, 10, 100, {"loss": 0.5})
    progress.mdp_step_progress(SECOND, 11, 100, {})
    time.sleep(0.3)
    progress.close()
    assert "loss 0.5" in output.getvalue().split("11/100")[1]
