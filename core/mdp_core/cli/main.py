"""``mdp``: the entry point."""

from __future__ import annotations

from typing import Annotated

import typer

from mdp_core import __version__
from mdp_core.cli import (
    cache,
    compare,
    data,
    doctor,
    plan,
    plugins,
    pretrain,
    recipe,
    report,
    run,
    runs,
    sweep,
    table,
    track,
    weights,
)

app = typer.Typer(
    name="mdp",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="From images without labels to object masks, clusters and a trained segmentation model.\n\n"
    "Start with [bold]mdp run quickstart[/bold], or, on your own images, [bold]mdp run folder --set data.root=PHOTOS[/bold].",
)
app.command("run")(run.run)
app.command("plan")(plan.plan)
app.command("pretrain")(pretrain.pretrain)
app.command("sweep")(sweep.sweep)
app.command("compare")(compare.compare)
app.command("table")(table.table)
app.command("report")(report.report)
app.add_typer(cache.app, name="cache")
app.add_typer(runs.app, name="runs")
app.add_typer(plugins.app, name="plugins")
app.add_typer(recipe.app, name="recipe")
app.add_typer(weights.app, name="weights")
app.add_typer(data.app, name="data")
app.add_typer(track.app, name="track")
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mdp {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Takes the options that belong to no command."""


def main() -> None:
    """Runs the command line."""
    app()


if __name__ == "__main__":
    main()
