"""``mdp plugins``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdp_core.cli import plugins_check
from mdp_core.cli.messages import for_people
from mdp_core.cli.plugins_new import new

if TYPE_CHECKING:
    from mdp_core.plugins.loader import Plugin, PluginHost

app = typer.Typer(no_args_is_help=True, help="What is installed to fill the stages.")
app.command("check")(plugins_check.check)
PluginOption = Annotated[
    list[Path],
    typer.Option(
        "--plugin", metavar="FILE", help="Load a plugin from a single file.", default_factory=list, show_default=False
    ),
]


@app.command("list")
def list_(
    plugin: PluginOption,
    kind: Annotated[str | None, typer.Option("--kind", help="Only this kind: prior, clusterer, …", show_default=False)] = None,
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the plugins of each stage, and those that are broken."""
    with for_people():
        from mdp_core.errors import PluginError
        from mdp_core.plugins.loader import KINDS, load_plugins
        from mdp_core.recipe.problems import did_you_mean

        if kind not in (None, *KINDS):
            raise PluginError(f"--kind {kind}: no such kind{did_you_mean(kind, KINDS)}", hint=f"kinds: {', '.join(KINDS)}")
        host = load_plugins(plugin)
        shown = [
            p for k in KINDS for p in sorted(host.plugins.values(), key=lambda p: p.name) if p.kind == k and kind in (None, k)
        ]
        if json_:
            broken = [vars(b) for b in host.broken]
            typer.echo(
                json.dumps({"plugins": [vars(p) for p in shown], "broken": broken, "conflicts": host.conflicts}, indent=1)
            )
        else:
            _table(host, shown)
        if host.conflicts:
            raise typer.Exit(1)


def _table(host: PluginHost, plugins: list[Plugin]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(soft_wrap=not Console().is_terminal)
    table = Table("kind", "name", "from", "what it does", box=None, pad_edge=False)
    for p in plugins:
        default = " [dim](default)[/dim]" if host.default(p.kind) == p.name else ""
        table.add_row(p.kind, p.name + default, escape(f"{p.distribution} {p.version}"), escape(p.summary))
    console.print(table)
    for b in host.broken:
        console.print(
            f"[red]broken:[/red] {escape(b.entry_point)} from {escape(b.distribution)} {b.version}: {escape(b.error)}"
        )
    for conflict in host.conflicts:
        console.print(f"[red]conflict:[/red] {escape(conflict)}")


app.command("new")(new)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="Name of a plugin, or kind:name.", show_default=False)],
    plugin: PluginOption,
) -> None:
    """Show a plugin's settings: what each means, its default and its range."""
    with for_people():
        from rich.console import Console
        from rich.markup import escape

        from mdp_core.errors import PluginError
        from mdp_core.plugins.loader import KINDS, load_plugins

        host = load_plugins(plugin)
        wanted, _, bare = name.rpartition(":")
        kinds = [k for k in ([wanted] if wanted else KINDS) if host.resolve_alias(k, bare) in host.names(k)]
        if not kinds:
            known = sorted(p for _, p in host.plugins)
            import difflib

            close = difflib.get_close_matches(bare, known, 1)
            raise PluginError(
                f"no plugin named {name!r}" + (f", did you mean {close[0]!r}?" if close else ""),
                hint="`mdp plugins list` shows all",
            )
        console = Console()
        for kind in kinds:
            found = host.plugin(kind, bare)
            console.print(f"[bold]{found.kind}:{found.name}[/bold]  {escape(found.summary)}", highlight=False)
            console.print(
                f"[dim]from {escape(found.distribution)} {found.version}, {escape(found.factory)}[/dim]", highlight=False
            )
            config = host.config(kind, bare)
            if config.uses_labels:
                console.print(f"[yellow]uses labels: {escape(config.uses_labels)}[/yellow]")
            console.print(settings_table(config))


def settings_table(config: Any) -> Any:
    """Returns a table of a settings model, sub-models with dotted names."""
    from rich.markup import escape
    from rich.table import Table

    from mdp_core.plugins.settings_docs import describe

    table = Table("setting", "type", "default", "meaning", box=None, pad_edge=False)
    for setting in describe(config):
        table.add_row(setting.name, escape(setting.type), escape(setting.default), escape(setting.meaning))
    return table
