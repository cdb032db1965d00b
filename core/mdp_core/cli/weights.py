"""``mdp weights``: what a recipe needs, where it comes from, whether it is here and whole."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdp_core.cli.messages import for_people
from mdp_core.cli.run import PluginOption, SetOption

if TYPE_CHECKING:
    from mdp_core.plugins.hookspecs import WeightsInfo
    from mdp_core.plugins.loader import PluginHost

app = typer.Typer(no_args_is_help=True, help="Weights of networks: what a recipe needs, and whether it is here.")

_HELP = "A recipe, or weights themselves: timm:NAME, file:PATH, builtin:NAME."
Target = Annotated[str, typer.Argument(metavar="RECIPE", help=_HELP, show_default=False)]
OptionalTarget = Annotated[
    str | None, typer.Argument(metavar="[RECIPE]", help=_HELP + " Without one: all that are here.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]

_MB = 1e6
_WIDE = 240
"""Columns where there is no terminal to say how many: a line a set of weights."""


@dataclass(frozen=True)
class Needed:
    """Weights and the stages of a recipe that use them."""

    info: WeightsInfo
    used_by: tuple[str, ...] = ()

    def plain(self, **more: Any) -> dict[str, Any]:
        """Returns all of it, JSON-ready."""
        return {**dataclasses.asdict(self.info), "path": str(self.info.path or "") or None, "used_by": self.used_by, **more}


@app.command("list")
def list_(set_: SetOption, plugin: PluginOption, recipe: OptionalTarget = None, json_: JsonOption = False) -> None:
    """List the weights that a recipe needs: origin, licence, size, and whether they are here."""
    with for_people():
        host = _host(plugin)
        needed = [Needed(info) for info in host.list_weights()] if recipe is None else _needed(recipe, set_, host)
        if json_:
            _print_json([n.plain() for n in needed])
        else:
            _show(needed)


@app.command("fetch")
def fetch(recipe: Target, set_: SetOption, plugin: PluginOption, json_: JsonOption = False) -> None:
    """Download the weights that a recipe needs and that are not here; where that cannot be, say what to place where."""
    with for_people():
        from mdp_core.errors import WeightsError

        host = _host(plugin)
        fetched, problems = [], []
        for needed in _needed(recipe, set_, host):
            if not needed.info.here:
                typer.echo(f"fetching {needed.info.ref} from {needed.info.origin} ({_size(needed.info)})", err=True)
            try:
                fetched.append(Needed(host.fetch_weights(needed.info.ref), needed.used_by))
            except WeightsError as error:
                problems.append(str(error))
        if json_:
            _print_json([n.plain() for n in fetched])
        else:
            for got in fetched:
                typer.echo(f"here: {got.info.ref}  {got.info.path or got.info.origin}")
        if problems:
            raise WeightsError("\n".join(problems))


@app.command("verify")
def verify(recipe: Target, set_: SetOption, plugin: PluginOption, json_: JsonOption = False) -> None:
    """Compute the sha256 of the weights that a recipe needs and compare it with what is recorded of them.

    Recorded are: what the hub gave with a download, what came with mdp, and what a recipe writes: file:PATH#sha256=HEX.
    """
    with for_people():
        from mdp_core.errors import WeightsError

        checked = [_check(needed) for needed in _needed(recipe, set_, _host(plugin))]
        if json_:
            _print_json([c.needed.plain(found=c.found, verdict=c.verdict) for c in checked])
        else:
            for c in checked:
                typer.echo(f"{c.verdict:<12} {c.needed.info.ref}  {c.found or ''}".rstrip())
        problems = [c.problem for c in checked if c.problem]
        if problems:
            raise WeightsError("\n".join(problems))


@dataclass(frozen=True)
class _Checked:
    needed: Needed
    verdict: str
    found: str | None = None
    problem: str = ""


def _check(needed: Needed) -> _Checked:
    """Compares the contents of a file with what is recorded of it."""
    from mdp_core.settings import file_sha256

    info = needed.info
    if not info.here:
        return _Checked(needed, "missing", problem=f"{info.ref} is not here\n  {info.remedy}")
    if info.path is None:
        return _Checked(needed, "made by code")
    found = file_sha256(info.path)
    if info.sha256 not in (None, found):
        problem = f"{info.ref}: {info.path} is damaged or another file: its sha256 is {found}, not {info.sha256}"
    elif info.problem:
        problem = f"{info.ref}: {info.problem}"
    else:
        return _Checked(needed, "not recorded" if info.sha256 is None else "ok", found)
    return _Checked(needed, "damaged", found, f"{problem}\n  {info.remedy}")


def _host(plugin_files: Sequence[Path]) -> PluginHost:
    from mdp_core.plugins.loader import load_plugins

    host = load_plugins(plugin_files)
    host.check()
    return host


def _needed(target: str, overrides: Sequence[str], host: PluginHost) -> list[Needed]:
    """Describes the weights that a recipe names, each once; or those that the command line names themselves."""
    from mdp_core.recipe.load import load_recipe
    from mdp_core.settings import WEIGHT_SCHEMES, weight_refs

    if target.partition(":")[0] in WEIGHT_SCHEMES and not Path(target).is_file():
        return [Needed(host.describe_weights(_checked(target)))]
    users: dict[str, list[str]] = {}
    for name, section in load_recipe(target, overrides, host, os.environ).recipe.pipeline.items():
        for ref in weight_refs(section.config):
            if ref.partition(":")[0] in WEIGHT_SCHEMES:  # not "none", nor the weights that an earlier stage makes
                users.setdefault(ref, []).append(name)
    return [Needed(host.describe_weights(ref), tuple(dict.fromkeys(stages))) for ref, stages in users.items()]


def _checked(ref: str) -> str:
    from pydantic import TypeAdapter, ValidationError

    from mdp_core.errors import WeightsError
    from mdp_core.settings import WeightsRef

    try:
        return str(TypeAdapter(WeightsRef).validate_python(ref))
    except ValidationError as error:
        raise WeightsError(f"{ref}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error


def _show(needed: Iterable[Needed]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    needed = list(needed)
    if not needed:
        typer.echo("no weights are needed")
        return
    console = Console() if Console().is_terminal else Console(width=_WIDE)
    table = Table(box=None, pad_edge=False)
    for title in ("weights", "used by", "from", "licence", "size", "here", "sha256"):
        table.add_column(title, overflow="fold")
    for n in needed:
        state = "[red]damaged[/red]" if n.info.problem else "[green]yes[/green]" if n.info.here else "[yellow]no[/yellow]"
        cells = (n.info.ref, ", ".join(n.used_by), n.info.origin, n.info.licence, _size(n.info))
        table.add_row(*(escape(cell) for cell in cells), state, (n.info.sha256 or "")[:12])
    console.print(table)
    for n in needed:
        if n.info.problem:
            console.print(f"[red]damaged:[/red] {escape(n.info.problem)}", highlight=False)
    if any(not n.info.here for n in needed):
        console.print("[dim]`mdp weights fetch` downloads what is not here[/dim]", highlight=False)


def _size(info: WeightsInfo) -> str:
    sizes = []
    if info.size is not None:
        sizes.append(f"{'' if info.here else 'about '}{info.size / _MB:.1f} MB")
    if info.parameters is not None:
        sizes.append(f"{info.parameters / _MB:.1f} M parameters")
    return ", ".join(sizes)


def _print_json(weights: list[dict[str, Any]]) -> None:
    typer.echo(json.dumps({"weights": weights}, indent=1))
