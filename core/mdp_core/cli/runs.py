"""``mdp runs``: the runs of a home, and removing them."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdp_core.cli.messages import for_people
from mdp_core.cli.run import HomeOption

if TYPE_CHECKING:
    from mdp_core.engine.record import RunRecord

app = typer.Typer(no_args_is_help=True, help="Runs: list them, look at one, remove them.")

JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
_HELP = "Id of a run, the beginning or end of one, its folder, or last."
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help=_HELP, show_default=False)]
_WIDE = 200
"""Columns where there is no terminal to say how many."""


@app.command("ls")
def ls(
    failed: Annotated[bool, typer.Option("--failed", help="Only runs that failed, were killed or interrupted.")] = False,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """List runs, the oldest first: status, recipe, seed, when, how long, and the mIoU of the last component (or another score, named)."""
    with for_people():
        from mdp_core.engine.record import all_runs, mark_killed_runs

        folder = _home(home)
        mark_killed_runs(folder)
        found = [r for r in all_runs(folder) if not failed or r.status not in ("finished", "running")]
        if json_:
            typer.echo(json.dumps({"home": str(folder), "runs": [_plain(r) for r in found]}, indent=1, ensure_ascii=False))
        elif found:
            _show_list(found)
        else:
            typer.echo(f"no {'failed ' if failed else ''}runs in {folder}")


@app.command("show")
def show(run: RunArgument, home: HomeOption = None, json_: JsonOption = False) -> None:
    """Show one run: how it was called, what became of each step, and its results."""
    with for_people():
        from rich.console import Console

        from mdp_core.cli.results import show_results
        from mdp_core.engine.record import find_run, mark_killed_runs

        folder = _home(home)
        mark_killed_runs(folder)
        record = find_run(folder, run)
        if json_:
            content = {**_plain(record), "overrides": list(record.overrides), "error": record.error,
                       "steps": [asdict(s) for s in record.steps], "results": record.results, "warnings": record.warnings}  # fmt: skip
            typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
            return
        _show_one(record)
        if record.status == "finished":
            show_results(record, Console(soft_wrap=True))


@app.command("rm")
def rm(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help=_HELP, show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    home: HomeOption = None,
) -> None:
    """Remove runs: their records, pictures and tables. Results stay in the store until `mdp cache gc`."""
    with for_people():
        from mdp_core.cli.quantities import show_size
        from mdp_core.engine.cache import measure
        from mdp_core.engine.garbage import remove_run

        folder = _home(home)
        found = list({r.folder: r for r in (_find(folder, reference) for reference in runs)}.values())
        for record in found:
            sweep = f", part of sweep {record.sweep}" if record.sweep else ""
            typer.echo(f"{record.id}  {record.status}  {show_size(measure(record.folder)[0])}{sweep}")
        what = f"{len(found)} runs" if len(found) > 1 else "this run"
        if not yes and not typer.confirm(f"remove {what}?", default=False, err=True):
            typer.echo("nothing was removed", err=True)
            raise typer.Exit(1)
        for record in found:
            remove_run(record)
        typer.echo(
            f"removed {len(found)} run{'s' if len(found) > 1 else ''}; `mdp cache gc` removes results that no run uses any more"
        )


def _find(home: Path, reference: str) -> RunRecord:
    """Returns a run; also one whose record cannot be read, as long as it is named in full."""
    from mdp_core.engine.record import RunRecord, find_run, mark_killed_runs
    from mdp_core.errors import RunError

    mark_killed_runs(home)
    try:
        return find_run(home, reference)
    except RunError:
        folder = home / "runs" / reference
        if Path(reference).name == reference and not reference.startswith(".") and folder.is_dir():
            return RunRecord(folder, reference, 0, "?", [], {}, {}, status="failed")
        raise


def _home(home: Path | None) -> Path:
    from mdp_core.engine.run import default_home

    return home.absolute() if home else default_home()


def _plain(record: RunRecord) -> dict[str, Any]:
    metric, value = _final(record)
    return {
        "id": record.id, "status": record.status, "recipe": record.recipe, "name": record.name, "seed": record.seed,
        "started": record.started, "seconds": record.seconds, "hits": sum(1 for s in record.steps if s.status == "hit"),
        "steps_done": len(record.steps), "steps": len(record.planned) or len(record.steps), "metric": metric, "value": value,
        "metrics": record.metrics, "sweep": record.sweep, "from_run": record.from_run, "folder": str(record.folder),
    }  # fmt: skip


def _final(record: RunRecord) -> tuple[str | None, float | None]:
    """Returns the mIoU of the last row of the component table, or whatever metric comes last."""
    rows = record.results.get("components") or []
    if rows and "miou" in rows[-1]:
        return f"mIoU of {rows[-1].get('title', 'the last component')}", float(rows[-1]["miou"])
    return next(reversed(record.metrics.items()), (None, None))


def _score(metric: str | None, value: float | None) -> str:
    """Returns what a run came to, with the name of the metric: ``mIoU 42.1 %``, ``prior.corloc 0.125``."""
    if metric is None or value is None:
        return ""
    return f"mIoU {value * 100:.1f} %" if metric.startswith("mIoU") else f"{metric} {value:.4g}"


def _show_list(found: list[RunRecord]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from mdp_core.cli.quantities import show_age, show_duration

    table = Table(box=None, pad_edge=False)
    for title in ("run", "status", "recipe", "seed", "began", "took", "score"):
        table.add_column(title, no_wrap=True, justify="right" if title in ("seed", "took", "score") else "left")
    colour = {"finished": "green", "running": "cyan"}
    for record in found:
        score = _score(*_final(record))
        style = colour.get(record.status, "red")
        began = f"{show_age(datetime.fromisoformat(record.started).timestamp())} ago"
        name = escape(record.name + (f"  ({record.sweep})" if record.sweep else ""))
        took = show_duration(record.seconds) if record.seconds else ""
        table.add_row(record.id, f"[{style}]{record.status}[/{style}]", name, str(record.seed), began, took, score)
    console = Console() if Console().is_terminal else Console(width=_WIDE)
    console.print(table)


def _show_one(record: RunRecord) -> None:
    from mdp_core.cli.quantities import show_duration

    typer.echo(
        f"{record.id}: {record.status}, seed {record.seed}, began {record.started}, took {show_duration(record.seconds)}"
    )
    typer.echo(f"  recipe {record.recipe}" + "".join(f" --set {o}" for o in record.overrides))
    for note, value in (("sweep", record.sweep), ("repeats", record.from_run), ("error", record.error)):
        if value:
            typer.echo(f"  {note}: {value}")
    width = max((len(s.id) for s in record.steps), default=0)
    for step in record.steps:
        typer.echo(
            f"  {step.id:<{width}}  {step.plugin:<14} {step.status:<12} {show_duration(step.seconds):>10}  {step.key[:12]}"
        )
    for name in record.planned[len(record.steps) :]:
        typer.echo(f"  {name}  not reached")
