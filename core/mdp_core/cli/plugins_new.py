"""``mdp plugins new``: a package that can be installed, passes its tests and is yours to change."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mdp_core.cli.messages import for_people
from mdp_core.cli.plugins_check import settings_from
from mdp_core.cli.run import PluginOption


def new(
    name: Annotated[str, typer.Argument(help="Name of the package, for example colour-prior.", show_default=False)],
    plugin: PluginOption,
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting that the tests of the new package use. May be repeated.",
            default_factory=list,
            show_default=False,
        ),
    ],
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="prior, clusterer, detector, refiner or segmenter.", show_default=False),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="PLUGIN", help="Start from a copy of this plugin's method.", show_default=False),
    ] = None,
    into: Annotated[Path, typer.Option("--into", metavar="DIR", help="Where the package's folder is made.")] = Path(),
) -> None:
    """Write the package of a new plugin: method, settings, tests, README. It passes its tests at once."""
    with for_people():
        from mdp_core.plugins.loader import load_plugins
        from mdp_core.scaffold.package import kind_of, new_package

        host = load_plugins(plugin)
        host.check()
        kind = kind_of(host, kind, from_)
        made = new_package(host, name, kind, into, from_, settings_from(set_))
        typer.echo(f"{kind} {made.names.plugin}, in {made.folder}:")
        for path in made.files:
            typer.echo(f"  {path}")
        folder = shlex.quote(str(made.folder))
        typer.echo("\nnext:")
        typer.echo(f"  python -m pip install --editable {folder}")
        typer.echo(f"  python -m pytest {folder}")
        typer.echo(f"  {made.run}")
