"""``mdp plugins check``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdp_core.cli.messages import for_people

if TYPE_CHECKING:
    from rich.console import Console

    from mdp_core.testing.report import CheckReport, CheckResult
    from mdp_core.testing.trial import Trial

_COLOURS = {"ok": "green", "failed": "red", "expected": "yellow", "skipped": "dim"}


def check(
    plugin: Annotated[
        list[Path],
        typer.Option(
            "--plugin", metavar="FILE", help="Load a plugin from a single file.", default_factory=list, show_default=False
        ),
    ],
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the plugin, e.g. short_side=64, over those that it has for trials. May be repeated.",
            default_factory=list,
            show_default=False,
        ),
    ],
    name: Annotated[
        str | None,
        typer.Argument(help="Name of a plugin, or kind:name; without it, only whether all plugins load.", show_default=False),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Check that a plugin keeps the promises of its kind's interface; without a name, that all plugins load."""
    with for_people():
        if name is None:
            _check_loading(plugin, set_, json_)
        else:
            _check_one(name, plugin, set_, json_)


def _check_loading(files: list[Path], given: list[str], as_json: bool) -> None:
    from mdp_core.errors import PluginError
    from mdp_core.plugins.loader import load_plugins

    if given:
        raise PluginError("--set needs a plugin to set something of", hint="mdp plugins check NAME --set KEY=VALUE")
    host = load_plugins(files)
    lines = [f"ok       {p.kind}:{p.name} from {p.distribution} {p.version}" for p in host.plugins.values()]
    problems = [f"{b.entry_point} from {b.distribution} {b.version} is broken: {b.error}" for b in host.broken] + host.conflicts
    for plugin in host.plugins.values():
        try:
            host.config(plugin.kind, plugin.name)
        except PluginError as error:
            lines = [line for line in lines if f" {plugin.kind}:{plugin.name} from" not in line]
            problems.append(error.message)
    if as_json:
        loaded = [f"{p.kind}:{p.name}" for p in host.plugins.values()]
        typer.echo(json.dumps({"ok": not problems, "plugins": loaded, "problems": problems}, indent=1))
    else:
        typer.echo("\n".join([*sorted(lines), *(f"FAILED   {problem}" for problem in problems)]))
    if problems:
        raise typer.Exit(1)


def _check_one(name: str, files: list[Path], given: list[str], as_json: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    from mdp_core.recipe.show import inline
    from mdp_core.testing.report import CheckReport
    from mdp_core.testing.session import do_checks
    from mdp_core.testing.trial import Trial

    trial = Trial(name, settings=settings_from(given), plugin_files=files)
    _accept_settings(trial)
    console, status = Console(soft_wrap=True, highlight=False), Console(stderr=True)
    results: list[CheckResult] = []
    if trial.settings and not as_json:
        console.print(Text(f"{trial.slot} with {inline(trial.settings)}", style="dim"))
    with status.status("") as spinner:
        for result in do_checks(trial, {}, lambda at: spinner.update(f"{trial.slot}: {at.name}")):
            results.append(result)
            if not as_json:
                _print(console, result)
    report = CheckReport(trial.slot, tuple(results), trial.settings)
    _conclude(report, as_json)


def _print(console: Console, result: CheckResult) -> None:
    from rich.text import Text

    word, rest = result.line()[:9], result.line()[9:]
    console.print(Text.assemble((word, _COLOURS[result.outcome]), rest))
    if result.remedy:
        console.print(Text(f"         → {result.remedy}"))
    if result.outcome == "failed":
        console.print(Text(f"         it demands: {result.demand}", style="dim"))


def _conclude(report: CheckReport, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=1))
    else:
        typer.echo(f"{report.plugin}: {report.summary()}")
    if not report.ok:
        raise typer.Exit(1)


def _accept_settings(trial: Trial) -> None:
    """Refuses settings that the plugin does not have, before anything is done.

    Raises:
        RecipeError: Says which, and what was meant.
    """
    from mdp_core.errors import RecipeError
    from mdp_core.testing.report import CheckFailedError, CheckSkippedError

    if not trial.given:
        return
    try:
        trial.validated(trial.settings)
    except CheckSkippedError:
        return  # it cannot be imported, which a check tells
    except CheckFailedError as error:
        raise RecipeError(f"{trial.slot}: {error.message}", hint=error.remedy) from error


def settings_from(given: list[str]) -> dict[str, Any]:
    """Returns settings written ``embed.size=64`` as a recipe has them; values are YAML.

    Raises:
        RecipeError: One is not written KEY=VALUE, its value is not YAML, or it lies below a value.
    """
    import yaml

    from mdp_core.errors import RecipeError

    settings: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        path = [part.strip() for part in key.split(".")]
        if not equals or not all(path):
            raise RecipeError(f"--set {text}: not a setting", hint="write KEY=VALUE, for example --set short_side=64")
        inner = settings
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise RecipeError(f"--set {text}: {part} was given a value before")
        try:
            inner[path[-1]] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RecipeError(f"--set {text}: {value!r} is not YAML ({getattr(error, 'problem', error)})") from error
    return settings
