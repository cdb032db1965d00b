"""``mdp report``: one page of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdp_core.cli.messages import for_people
from mdp_core.cli.run import HomeOption

if TYPE_CHECKING:
    from rich.console import Console

    from mdp_core.engine.report import Progress

RunArgument = Annotated[
    str, typer.Argument(metavar="[RUN]", help="A run: its id, the beginning or end of it, or last.", show_default=False)
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Where to. [default: report.html in the run's folder]", show_default=False
    ),
]
OpenOption = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]

PATIENCE = 2.0
"""Seconds before progress is shown."""


def report(run: RunArgument = "last", output: OutputOption = None, home: HomeOption = None, open_: OpenOption = False) -> None:
    """Write one self-contained HTML page of a run: results, pictures of each stage, clusters, curves, recipe, provenance."""
    with for_people(lambda: "interrupted; nothing was written"):
        from rich.console import Console

        from mdp_core.engine.record import find_run, mark_killed_runs
        from mdp_core.engine.report import collect
        from mdp_core.engine.run import default_home
        from mdp_core.plugins.loader import load_plugins
        from mdp_core.report.page import render

        place = home.absolute() if home else default_home()
        mark_killed_runs(place)
        record = find_run(place, run)
        path = target(output, record.folder)
        console = Console(soft_wrap=True)
        host = load_plugins([Path(file) for file in record.plugin_files])
        with patiently(console) as progress:
            page = collect(record, host, progress)
        write(path, render(page))
        for text in page.missing:
            console.print(f"missing: {text}", style="dim", highlight=False, markup=False)
        console.print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)", highlight=False, markup=False)
        if open_:
            import webbrowser

            if not webbrowser.open(path.as_uri()):
                console.print("no browser could be started; open the file yourself", highlight=False)


def target(output: Path | None, folder: Path) -> Path:
    """Returns the file to write to; in a folder that is named, ``report.html``.

    Raises:
        RunError: Its folder does not exist.
    """
    from mdp_core.errors import RunError

    path = (folder if output is None else output.expanduser()).absolute()
    if path.is_dir():
        path /= "report.html"
    if not path.parent.is_dir():
        raise RunError(
            f"{path.parent}: no such folder, so {path.name} cannot be written there",
            hint="make the folder first, or choose another with -o",
        )
    return path


def write(path: Path, text: str) -> None:
    """Writes the page, whole or not at all.

    Raises:
        RunError: The disk does not let us.
    """
    from mdp_core.data.storage import write_text
    from mdp_core.errors import RunError

    try:
        write_text(path, text)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror})", hint="choose another place with -o") from error


@contextmanager
def patiently(console: Console) -> Iterator[Progress]:
    """Gives a function to tell (done, total) images to; shows them from ``PATIENCE`` seconds on."""
    from rich.progress import Progress as Bar

    began = time.monotonic()
    bar = Bar(console=console, transient=True)
    task = bar.add_task("ranking images", total=None)
    started = False

    def progress(done: int, total: int) -> None:
        nonlocal started
        bar.update(task, completed=done, total=total)
        if not started and console.is_terminal and time.monotonic() - began > PATIENCE:
            started = True
            bar.start()

    try:
        yield progress
    finally:
        if started:
            bar.stop()
