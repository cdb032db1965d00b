"""``mdp sweep``."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from mdp_core.cli.messages import for_people
from mdp_core.cli.run import (
    ExecutorOption,
    HomeOption,
    PluginOption,
    RecipeArgument,
    SetOption,
    TrackOption,
    UntilOption,
    WorkersOption,
    command_line,
    executor_settings,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from mdp_core.engine.sweep import MemberState, Sweep, SweepState

_PLAIN_SECONDS = 30.0
_SIGNS = {"finished": "[green]✓[/green]", "failed": "[red]✗[/red]", "interrupted": "[yellow]■[/yellow]"}

VaryOption = Annotated[
    list[str],
    typer.Option(
        "--vary",
        metavar="KEY=VALUE,VALUE",
        help="Vary a setting, e.g. pipeline.refiner.threshold=0.5,0.7; values are YAML, such as [1,2],[3,4]. May be repeated.",
        default_factory=list,
        show_default=False,
    ),
]
SeedsOption = Annotated[
    str | None,
    typer.Option("--seeds", metavar="N", help="So many seeds from the recipe's own on, or a list: 1,5,9.", show_default=False),
]
ZipOption = Annotated[
    bool | None,
    typer.Option(
        "--zip/--grid", help="First values together, then the second ones …, or all combinations.", show_default="--grid"
    ),
]


def sweep(
    recipe: RecipeArgument,
    vary: VaryOption,
    set_: SetOption,
    plugin: PluginOption,
    seeds: SeedsOption = None,
    zip_: ZipOption = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, metavar="N", help="Runs at once.")] = 1,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Start further runs after one failed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and count everything, run nothing.")] = False,
    until: UntilOption = None,
    home: HomeOption = None,
    executor: ExecutorOption = None,
    workers: WorkersOption = None,
    track: TrackOption = True,
) -> None:
    """Run a recipe's variations; work that they share is done once, and the same command continues a broken sweep."""
    with for_people(lambda: f"interrupted; finished runs are kept. Continue with:\n  {command_line()}"):
        from rich.console import Console

        from mdp_core.cli.progress import ConsoleProgress
        from mdp_core.engine.run import RunOptions, default_home
        from mdp_core.engine.sweep import plan_sweep
        from mdp_core.plugins.loader import load_plugins
        from mdp_core.recipe.load import read_sweep
        from mdp_core.recipe.variations import read_axes

        host = load_plugins(plugin)
        host.check()
        overrides = [*set_, *executor_settings(executor, workers)]
        axes = read_axes(read_sweep(recipe, overrides, host), vary, seeds, zip_=zip_)
        console = Console(soft_wrap=True)
        with closing(ConsoleProgress(console)) as progress:
            options = RunOptions(home=home.absolute() if home else default_home(), until=until, on_scan=progress.scanning)
            planned = plan_sweep(recipe, overrides, axes, host, os.environ, options)
        _show_plan(planned, console, every=dry_run)
        if not dry_run:
            arguments = [text for file in plugin for text in ("--plugin", str(file))]
            arguments += [*(["--until", until] if until else []), *([] if track else ["--no-track"])]
            _make(planned, arguments, console, jobs=jobs, keep_going=keep_going)


def _make(planned: Sweep, arguments: Sequence[str], console: Console, *, jobs: int, keep_going: bool) -> None:
    """Makes the runs, and says how they ended.

    Raises:
        typer.Exit: A run failed.
    """
    from mdp_core.engine.sweep import open_state
    from mdp_core.engine.sweep_runs import SweepRunner, locked

    with locked(planned):
        state = open_state(planned, command_line())
        with closing(SweepProgress(console, state)) as shown:
            SweepRunner(planned, state, shown, arguments, jobs=jobs, keep_going=keep_going).go()
    _show_comparison(planned, state, console)
    failed = [m for m in state.members if m.status in ("failed", "interrupted")]
    if failed:
        _show_failures(state, failed)
        raise typer.Exit(1)


def _show_plan(planned: Sweep, console: Console, *, every: bool) -> None:
    steps, distinct, there = planned.steps()
    console.print(f"[bold]sweep {planned.id}[/bold]  {len(planned.members)} runs · {planned.folder}", highlight=False)
    shared = f"{distinct} distinct steps, each done once (one by one the runs have {steps})"
    console.print(f"{shared}; {there} are in the store", highlight=False)
    for member in planned.members if every else ():
        left = f"{len(member.missing)} of {len(member.plan.steps)} steps to do" if member.missing else "all in the store"
        console.print(f"  {member.number:>3}  {member.variation}  ({left})", highlight=False, markup=False)


class SweepProgress:
    """Shows a sweep under way: one line an event, and at a terminal a live table of the runs under way.

    Args:
        console: Where to.
        state: The sweep.
    """

    def __init__(self, console: Console, state: SweepState) -> None:
        self.console, self.state = console, state
        self._live: Live | None = None
        self._said = 0.0
        self._runs: Sequence[tuple[MemberState, str, float]] = ()
        finished = sum(m.status == "finished" for m in state.members)
        if finished:
            console.print(f"{finished} of {len(state.members)} runs are finished already", highlight=False)
        if console.is_terminal and finished < len(state.members):
            from rich.live import Live

            self._live = Live(console=console, transient=True, auto_refresh=False)
            self._live.start()

    def started(self, state: MemberState) -> None:
        """Says that a run begins."""
        if self._live is None:
            self._line(f"  … {self._name(state)}")

    def ended(self, state: MemberState) -> None:
        """Leaves one line a run."""
        from rich.markup import escape

        how = f"{state.seconds:.1f} s" if state.status == "finished" else f"{state.status}: {_first_line(state.error)}"
        self.console.print(f"  {_SIGNS[state.status]} {escape(self._name(state))}  {escape(how)}", highlight=False)
        self._show([run for run in self._runs if run[0] is not state])

    def running(self, runs: Sequence[tuple[MemberState, str, float]]) -> None:
        """Shows where the runs are."""
        self._show(runs)
        if self._live is None and time.monotonic() - self._said > _PLAIN_SECONDS:
            if self._said:
                for state, where, seconds in runs:
                    self._line(f"    {self._name(state)}  {where}  {seconds:.0f} s")
            self._said = time.monotonic()

    def close(self) -> None:
        """Gives the terminal back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _show(self, runs: Sequence[tuple[MemberState, str, float]]) -> None:
        self._runs = runs
        if self._live is not None:
            self._live.update(self._table(runs), refresh=True)

    def _table(self, runs: Sequence[tuple[MemberState, str, float]]) -> Table:
        from rich.markup import escape
        from rich.table import Table

        counts = {status: sum(m.status == status for m in self.state.members) for status in ("finished", "failed", "waiting")}
        title = f"{counts['finished']} of {len(self.state.members)} finished, {counts['failed']} failed, {counts['waiting']} waiting"
        table = Table(box=None, pad_edge=False, show_header=False, title=title, title_justify="left", title_style="dim")
        for state, where, seconds in runs:
            table.add_row("  [cyan]▸[/cyan]", str(state.number), escape(str(state)), escape(where), f"{seconds:.0f} s")
        return table

    def _name(self, state: MemberState) -> str:
        return f"{state.number}/{len(self.state.members)}  {state}"

    def _line(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)


def _show_comparison(planned: Sweep, state: SweepState, console: Console) -> None:
    from mdp_core.cli.compare import show_comparison
    from mdp_core.engine.compare import compare
    from mdp_core.engine.sweep import member_runs

    records, missing = member_runs(planned.home, state)
    if not records:
        return
    notes = [f"{len(missing)} of {len(state.members)} runs are not in this table"] if missing else []
    console.print()
    show_comparison(compare(records, usual=state.metrics, varied=state.varied, notes=notes), console)
    console.print(
        f"again: mdp compare --sweep {state.id}   (--md, --csv, --json, --latex, --curve)", highlight=False, markup=False
    )


def _show_failures(state: SweepState, failed: Sequence[MemberState]) -> None:
    waiting = sum(m.status == "waiting" for m in state.members)
    lines = [f"{len(failed)} of {len(state.members)} runs failed:"]
    for member in failed:
        lines += [f"  {member.number}  {member}"]
        lines += [f"     {line}" for line in (member.error or member.status).splitlines()]
        lines += [f"     log: {state.folder / member.log}"]
    if waiting:
        lines.append(f"{waiting} runs were not started: the first failure ends a sweep, --keep-going goes on")
    typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
    typer.echo("\n".join(lines), err=True)
    typer.echo(f"  → finished runs are kept; the same command continues:\n    {command_line()}", err=True)


def _first_line(text: str | None) -> str:
    return (text or "no reason is known").splitlines()[0]
