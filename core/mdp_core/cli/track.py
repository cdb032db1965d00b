"""``mdp track``: what trackers (MLflow) have of the runs, and sending what they lack."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdp_core.cli.messages import for_people
from mdp_core.cli.run import HomeOption, PluginOption

if TYPE_CHECKING:
    from mdp_core.engine.record import RunRecord
    from mdp_core.plugins.hookspecs import Tracking
    from mdp_core.plugins.loader import PluginHost

app = typer.Typer(no_args_is_help=True, help="Tracking of runs (MLflow): what has been sent, and sending the rest.")

RunsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN]...", help="Ids of runs, or `last`. Without any: all whose tracking is incomplete.", show_default=False
    ),
]


@app.command("sync")
def sync(
    plugin: PluginOption,
    runs: RunsArgument = None,
    force: Annotated[bool, typer.Option("--force", help="Send all of each run anew, replacing what is there.")] = False,
    home: HomeOption = None,
) -> None:
    """Send what the tracking server does not have of runs; sending something twice changes nothing."""
    with for_people():
        from mdp_core.errors import MdpError, RunError

        root, host = _root(home), _host(plugin)
        if force and not runs:
            raise RunError("--force sends runs anew, and none is named", hint="name them: mdp track sync --force RUN …")
        chosen = _chosen(root, runs or [], host)
        if not chosen:
            typer.echo("nothing to send" + (f"; {busy} runs are being sent right now" if (busy := _busy(root, host)) else ""))
        failed = []
        for record in chosen:
            try:
                found = host.sync_run(record.folder, record.home, force=force)
            except MdpError as error:
                failed.append(error)
                typer.echo(f"{record.id}: not sent")
                continue
            for tracking in found:
                _say(record, tracking)
        if failed:
            others = [e.message for e in failed[1:] if e.message != failed[0].message]
            raise RunError("\n".join([failed[0].message, *others]), hint=failed[0].hint)


@app.command("ls")
def ls(
    plugin: PluginOption,
    home: HomeOption = None,
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the runs and how far their tracking has got."""
    with for_people():
        from mdp_core.engine.record import all_runs

        host = _host(plugin)
        found = [(r, t) for r in all_runs(_root(home)) for t in host.run_tracking(r.folder, r.home)]
        if json_:
            rows = [{"run": r.id, "status": r.status, **dataclasses.asdict(t)} for r, t in found]
            typer.echo(json.dumps(rows, indent=1))
        else:
            _show(found)


def _root(home: Path | None) -> Path:
    from mdp_core.engine.run import default_home

    return home.absolute() if home else default_home()


def _host(plugin_files: list[Path]) -> PluginHost:
    from mdp_core.plugins.loader import load_plugins

    host = load_plugins(plugin_files)
    host.check()
    return host


def _chosen(root: Path, references: list[str], host: PluginHost) -> list[RunRecord]:
    """Returns the runs that are named, or those that a tracker began with and does not have all of."""
    from mdp_core.engine.record import all_runs, find_run

    if references:
        return [find_run(root, reference) for reference in dict.fromkeys(references)]
    return [r for r in all_runs(root) if any(t.state == "incomplete" for t in host.run_tracking(r.folder, r.home))]


def _busy(root: Path, host: PluginHost) -> int:
    """Returns how many runs a tracker is sending."""
    from mdp_core.engine.record import all_runs

    return sum(any(t.state == "sending" for t in host.run_tracking(r.folder, r.home)) for r in all_runs(root))


def _say(record: RunRecord, tracking: Tracking) -> None:
    said = {"complete": "complete at", "sending": "being sent right now to", "incomplete": "not complete at"}
    typer.echo(f"{record.id}: {said.get(tracking.state, tracking.state)} {tracking.place}")
    for text in (tracking.detail, tracking.problem):
        if text:
            typer.echo(f"  {text}")


def _show(found: list[tuple[RunRecord, Tracking]]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not found:
        typer.echo("no runs")
        return
    colours: dict[str, str] = {"complete": "green", "incomplete": "red", "sending": "yellow", "untracked": "dim"}
    table = Table("run", "status", "tracking", "where", box=None, pad_edge=False)
    for record, tracking in found:
        cells: list[Any] = [record.id, record.status, f"[{colours[tracking.state]}]{tracking.state}[/]"]
        table.add_row(*cells, " ".join(text for text in (tracking.place, tracking.problem) if text))
    Console(soft_wrap=True).print(table)
    if any(tracking.state == "incomplete" for _, tracking in found):
        typer.echo("`mdp track sync` sends the rest")
