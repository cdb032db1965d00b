"""``mdp table``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdp_core.cli.compare import RunsArgument, SweepsOption
from mdp_core.cli.messages import for_people
from mdp_core.cli.run import HomeOption

if TYPE_CHECKING:
    from rich.console import Console

    from mdp_core.engine.paper_table import PaperTable
    from mdp_core.engine.published import Published
    from mdp_core.engine.record import RunRecord

NameArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]", help="A table or figure of the paper, e.g. pascal-components; without one: which there are.",
        show_default=False,
    ),
]  # fmt: skip


def _file(flag: str, what: str) -> Any:
    return typer.Option(flag, metavar="FILE", help=f"Write {what} here; - is standard output.", show_default=False)


def table(
    sweep: SweepsOption,
    name: NameArgument = None,
    runs: RunsArgument = None,
    md: Annotated[Path | None, _file("--md", "Markdown")] = None,
    csv: Annotated[Path | None, _file("--csv", "CSV, a line a number with all its digits")] = None,
    json: Annotated[Path | None, _file("--json", "JSON, with the numbers of each seed")] = None,
    latex: Annotated[Path | None, _file("--latex", "LaTeX, for the package booktabs")] = None,
    home: HomeOption = None,
) -> None:
    """Print a table of the paper: its numbers, and those of runs beside them, mean ± std over seeds."""
    with for_people():
        from rich.console import Console

        from mdp_core.engine.published import published

        console, known = Console(soft_wrap=True), published()
        if name is None:
            show_list(known, console)
            return
        from mdp_core.engine.paper_table import fill
        from mdp_core.engine.run import default_home

        wanted = known.table(name)
        records, notes = _records(home.absolute() if home else default_home(), runs or [], sweep, name, wanted.make)
        filled = fill(name, known, records, notes)
        files = {"md": md, "csv": csv, "json": json, "latex": latex}
        if Path("-") not in files.values():
            show_table(filled, console)
        _write(filled, {form: file for form, file in files.items() if file is not None}, console)


def _records(home: Path, runs: list[str], sweeps: list[str], name: str, make: str) -> tuple[list[RunRecord], list[str]]:
    """Returns the runs asked for, and what is missing of the sweeps."""
    from mdp_core.engine.record import find_run
    from mdp_core.engine.sweep import find_sweep, member_runs
    from mdp_core.errors import RunError

    if not runs and not sweeps:
        raise RunError(
            "name the runs that fill the table",
            hint=f"mdp table {name} RUN RUN …, or --sweep ID; runs for it are made by: {make}",
        )
    records, notes = [find_run(home, reference) for reference in runs], []
    for reference in sweeps:
        state = find_sweep(home, reference)
        found, missing = member_runs(home, state)
        records += found
        if missing and not found:
            raise RunError(f"no run of the sweep {state.id} is finished", hint=f"continue it: {state.command}")
        if missing:
            notes.append(f"not finished in {state.id}: {', '.join(f'{m.number} ({m.status})' for m in missing)}")
    return records, notes


def show_list(known: Published, console: Console) -> None:
    """Prints which tables there are, and what each needs."""
    from rich.markup import escape
    from rich.table import Table

    grid = Table(
        "table", "in the paper", "what it shows", "protocols", "runs for it", box=None, pad_edge=False, header_style="bold"
    )
    for name, one in known.tables.items():
        grid.add_row(name, one.source, one.title, ", ".join(one.evaluate), escape(one.make))
    _widen(grid, console)
    console.print(grid, soft_wrap=False)
    console.print("\nmdp table NAME RUN … or mdp table NAME --sweep ID", style="dim", highlight=False)


def show_table(filled: PaperTable, console: Console) -> None:
    """Prints a table, with its warnings and how it was measured."""
    from rich.console import Console as Stderr
    from rich.markup import escape
    from rich.table import Table

    from mdp_core.engine.paper_table_text import as_grid

    content = as_grid(filled)
    console.print(content.title, style="bold", highlight=False, markup=False)
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(content.header):
        grid.add_column(
            escape(name.replace(", ", "\n")), justify="right" if index >= content.texts else "left", overflow="fold"
        )
    for row in content.rows:
        grid.add_row(*map(escape, row), style="italic" if len(row) == 1 else None)
    _widen(grid, console)
    console.print(grid, soft_wrap=False)
    for text in content.warnings:
        Stderr(stderr=True, soft_wrap=True).print("[yellow]warning:[/yellow]", escape(text), highlight=False)
    for line in content.lines:
        console.print(line, style="dim", highlight=False, markup=False)


def _widen(grid: object, console: Console) -> None:
    """Gives a file or a pipe, which has no width, as much as the table needs."""
    if not console.is_terminal:
        console.width = max(console.width, console.measure(grid, options=console.options.update(width=10_000)).maximum)  # type: ignore[arg-type]


def _write(filled: PaperTable, files: dict[str, Path], console: Console) -> None:
    from mdp_core.data.storage import write_text
    from mdp_core.engine import paper_table_text as texts
    from mdp_core.engine.store import disk_errors

    makers = {"md": texts.to_markdown, "csv": texts.to_csv, "json": texts.to_json, "latex": texts.to_latex}
    for form, file in files.items():
        text = makers[form](filled)
        if file == Path("-"):
            typer.echo(text, nl=False)
            continue
        with disk_errors(file.absolute()):
            write_text(file.absolute(), text)
        if Path("-") not in files.values():
            console.print(f"{file}: {filled.name}", highlight=False, markup=False)
