"""Progress of a run: a live line for people at a terminal, plain lines everywhere else."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mdp_core.plugins.hookspecs import RunInfo, RunOutcome, StepInfo, StepResult, hookimpl

_PLAIN_SECONDS = 15.0
_SPEED_SECONDS = 300.0
"""How far back the speed is measured: some trainings tell of themselves once a minute."""


class ConsoleProgress:
    """An observer that shows what happens.

    Args:
        console: Where to; a live display if it is a terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._said = 0.0
        self._width = 24
        self._numbers = ""
        self._began: tuple[float, int] | None = None
        if console.is_terminal:
            self._live = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}"),
                TimeElapsedColumn(),
                TextColumn("· left"),
                TimeRemainingColumn(),
                TextColumn("[dim]{task.fields[numbers]}"),
                console=console,
                transient=True,
                speed_estimate_period=_SPEED_SECONDS,
            )

    def scanning(self, split: str, done: int, total: int) -> None:
        """Shows that images are opened for the first time."""
        self._show(f"reading split {split}", done, total, "images", {})
        if done == total:
            self._clear()

    @hookimpl
    def mdp_run_started(self, run: RunInfo) -> None:
        """Shows what begins."""
        self._width = max((len(s.id) for s in run.steps), default=24)
        self.console.print(f"[bold]{run.name}[/bold]  seed {run.seed} · {len(run.steps)} steps · {run.folder}", highlight=False)

    @hookimpl
    def mdp_step_started(self, step: StepInfo) -> None:
        """Shows the step."""
        self._said = time.monotonic()
        self._began = None
        if self._live is None:
            self.console.print(f"  … {step.id:<{self._width}}  {step.plugin}", highlight=False, markup=False)
        else:
            self._show(step.id, 0, 0, step.unit, {})

    @hookimpl
    def mdp_step_progress(self, step: StepInfo, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Moves the bar, or prints a line now and then."""
        self._show(step.id, done, total, step.unit, metrics)

    @hookimpl
    def mdp_step_finished(self, step: StepInfo, result: StepResult) -> None:
        """Leaves one line a step."""
        self._clear()
        sign = {"hit": "[dim]=[/dim]", "done": "[green]✓[/green]"}.get(result.status, "[red]✗[/red]")
        how = "in the store" if result.status == "hit" else f"{result.seconds:.1f} s"
        weights = result.notes.get("weights", "")
        note = f"  [dim]{escape(weights)}[/dim]" if weights and result.status == "done" else ""
        name = escape(f"{step.id:<{self._width}}")
        self.console.print(f"  {sign} {name}  {step.plugin:<14} {how:>12}{note}", highlight=False)

    @hookimpl
    def mdp_run_finished(self, outcome: RunOutcome) -> None:
        """Ends the display."""
        self.close()

    def close(self) -> None:
        """Gives the terminal back; also after an error or Ctrl-C, else its cursor stays hidden."""
        self._clear()

    def _show(self, title: str, done: int, total: int, unit: str, metrics: Mapping[str, float]) -> None:
        if metrics or self._began is None:  # what was told last stays until there is something newer
            self._numbers = " ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:3])
        numbers = self._numbers if total else "starting"
        now = time.monotonic()
        if self._began is None and total:
            self._began = (now, done)  # a resumed training does not begin at 0
        if self._live is None:
            if now - self._said > _PLAIN_SECONDS:
                self._said = now
                left = self._left(now, done, total)
                self.console.print(f"    {title} {done}/{total} {unit} {left}{numbers}".rstrip(), highlight=False, markup=False)
            return
        if self._task is None:
            self._live.start()
            self._task = self._live.add_task(escape(title), total=total or None, unit=unit, numbers=numbers)
        self._live.update(self._task, completed=done, total=total or None, numbers=numbers)

    def _left(self, now: float, done: int, total: int) -> str:
        """Says how long the step will take, for plain lines; nothing before there is something to go by."""
        began, start = self._began or (now, done)
        if done <= start:
            return ""
        return f"left {_duration((now - began) / (done - start) * (total - done))} "

    def _clear(self) -> None:
        self._began = None
        if self._live is not None and self._task is not None:
            self._live.remove_task(self._task)
            self._live.stop()
            self._task = None


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return (
        f"{round(seconds)} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
    )
