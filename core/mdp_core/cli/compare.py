"""``mdp compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdp_core.cli.messages import for_people
from mdp_core.cli.run import HomeOption

if TYPE_CHECKING:
    from rich.console import Console

    from mdp_core.engine.compare import Comparison
    from mdp_core.engine.record import RunRecord

RunsArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Ids of runs, their beginnings or ends, last, last~1, or their folders.", show_default=False),
]
SweepsOption = Annotated[
    list[str],
    typer.Option("--sweep", metavar="ID", help="All runs of a sweep, or last.", default_factory=list, show_default=False),
]
MetricOption = Annotated[
    list[str],
    typer.Option(
        "--metric",
        metavar="NAME",
        help="A metric, e.g. segmenter.miou, miou or 'segmenter.iou/*'. May be repeated. [default: what the sweep's recipe says, or the mIoU of every stage]",
        default_factory=list,
        show_default=False,
    ),
]
BaselineOption = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="ROW",
        help="What is compared with: a row, a run, or KEY=VALUE. [default: row 1]",
        show_default=False,
    ),
]
CurveOption = Annotated[
    str | None,
    typer.Option(
        "--curve", metavar="KEY", help="Draw the metrics over this setting, e.g. refiner.threshold.", show_default=False
    ),
]
PicturesOption = Annotated[
    str | None,
    typer.Option(
        "--pictures",
        metavar="STAGE",
        help="Draw what this stage of each row made of the same images, e.g. prior, side by side.",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="Write the table, the figure (.png, .svg) or the pictures (.png) here.",
        show_default=False,
    ),
]


def compare(
    sweep: SweepsOption,
    metric: MetricOption,
    runs: RunsArgument = None,
    all_metrics: Annotated[bool, typer.Option("--all-metrics", help="Show every metric.")] = False,
    baseline: BaselineOption = None,
    curve: CurveOption = None,
    pictures: PicturesOption = None,
    out: OutOption = None,
    md: Annotated[bool, typer.Option("--md", help="Markdown.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="CSV, full numbers.")] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON, with the numbers of each seed.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="LaTeX, for the package booktabs.")] = False,
    home: HomeOption = None,
) -> None:
    """Compare runs: the settings that differ, metrics over seeds, and paired differences to a baseline."""
    with for_people():
        from rich.console import Console

        from mdp_core.engine.compare import compare as compare_runs
        from mdp_core.engine.figures import check_figure_path, draw_curves
        from mdp_core.engine.run import default_home

        chosen = _format({"md": md, "csv": csv, "json": json, "latex": latex}, curve, pictures, out)
        if curve is not None and out is not None:
            check_figure_path(out)
        records, notes, usual, varied = _records(home.absolute() if home else default_home(), runs or [], sweep)
        found = compare_runs(
            records, metrics=metric, usual=usual, varied=varied, all_metrics=all_metrics, baseline=baseline, notes=notes
        )
        console = Console(soft_wrap=True)
        if curve is not None and out is not None:
            draw_curves(found, curve, out)
            _show_warnings(found)
            console.print(f"{out}: {', '.join(found.metrics)} over {curve}", highlight=False, markup=False)
        elif pictures is not None and out is not None:
            from mdp_core.engine.side_by_side import draw_side_by_side

            draw_side_by_side(found, pictures, out.absolute())
            console.print(f"{out}: {pictures} of {len(found.groups)} runs", highlight=False, markup=False)
        elif chosen is None:
            show_comparison(found, console)
        else:
            _write(found, chosen, out)


def _format(wanted: dict[str, bool], curve: str | None, pictures: str | None, out: Path | None) -> str | None:
    from mdp_core.errors import RunError

    chosen = [name for name, on in wanted.items() if on]
    if len(chosen) > 1:
        raise RunError(f"--{chosen[0]} and --{chosen[1]} are two formats", hint="give one of them")
    if curve is not None and (out is None or chosen):
        raise RunError(
            "a curve is a figure", hint=f"write --curve {curve} -o curve.png, or curve.svg, and no format of a table"
        )
    if pictures is not None and (out is None or chosen or curve is not None or out.suffix.lower() != ".png"):
        raise RunError("--pictures draws one picture", hint=f"write --pictures {pictures} -o {pictures}.png, and nothing else")
    if out is not None and curve is None and pictures is None and not chosen:
        raise RunError(
            f"-o {out}: a table has a format", hint="give --md, --csv, --json or --latex; a figure is drawn with --curve KEY"
        )
    return chosen[0] if chosen else None


def _records(home: Path, runs: list[str], sweeps: list[str]) -> tuple[list[RunRecord], list[str], list[str], tuple[str, ...]]:
    """Returns the runs asked for, what is missing of the sweeps, the metrics that their recipes ask for, and, of a single sweep, what it varies."""
    from mdp_core.engine.record import find_run
    from mdp_core.engine.sweep import find_sweep, member_runs
    from mdp_core.errors import RunError

    if not runs and not sweeps:
        raise RunError(
            "name the runs to compare", hint="mdp compare RUN RUN …, or mdp compare --sweep ID; `last` is the newest"
        )
    records, notes, usual = [find_run(home, reference) for reference in runs], list[str](), list[str]()
    varied: tuple[str, ...] = ()
    for reference in sweeps:
        state = find_sweep(home, reference)
        found, missing = member_runs(home, state)
        records += found
        usual += state.metrics
        varied = state.varied if not runs and len(sweeps) == 1 else ()
        if missing:
            listed = "; ".join(f"{m.number} ({m}: {m.status})" for m in missing[:6])
            notes.append(f"not finished in {state.id}: {listed}{'; …' if len(missing) > 6 else ''}")
    return records, notes, usual, varied


def show_comparison(comparison: Comparison, console: Console) -> None:
    """Prints the table, with its warnings and how to read it."""
    from rich.markup import escape
    from rich.table import Table

    from mdp_core.engine.comparison_table import as_table

    content = as_table(comparison)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(content.header):
        right = index >= len(content.header) - content.numeric
        table.add_column(escape(_stacked(name)), justify="right" if right else "left", overflow="fold")
    for row in content.rows:
        table.add_row(*map(escape, row))
    if not console.is_terminal:  # a file or a pipe has no width
        console.width = max(console.width, console.measure(table, options=console.options.update(width=10_000)).maximum)
    console.print(table, soft_wrap=False)
    _show_warnings(comparison)
    for line in content.lines:
        console.print(line, style="dim", highlight=False, markup=False)


def _stacked(name: str) -> str:
    """Returns a column's name on two lines, the stage above: tables are wide enough."""
    plain = name.removeprefix("Δ ")
    stage, dot, last = plain.partition(".")
    return f"{stage}\n{name.removesuffix(plain)}{last}" if dot else name


def _show_warnings(comparison: Comparison) -> None:
    from rich.console import Console
    from rich.markup import escape

    for text in comparison.warnings:
        Console(stderr=True, soft_wrap=True).print("[yellow]warning:[/yellow]", escape(text), highlight=False)


def _write(comparison: Comparison, chosen: str, out: Path | None) -> None:
    from mdp_core.data.storage import write_text
    from mdp_core.engine import comparison_table as tables
    from mdp_core.engine.store import disk_errors

    makers = {"md": tables.to_markdown, "csv": tables.to_csv, "json": tables.to_json, "latex": tables.to_latex}
    text = makers[chosen](comparison)
    if chosen == "csv":
        _show_warnings(comparison)
    if out is None:
        typer.echo(text, nl=False)
    else:
        with disk_errors(out.absolute()):
            write_text(out.absolute(), text)
