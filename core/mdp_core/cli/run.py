"""``mdp run``, and the options that it shares with other commands."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdp_core.cli.messages import for_people
from mdp_core.cli.repeat import FreshOption, FromRunOption, KeepOption, Wish, check_call, repeat

if TYPE_CHECKING:
    from mdp_core.plugins.loader import PluginHost
    from mdp_core.recipe.load import LoadedRecipe

RecipeArgument = Annotated[
    str,
    typer.Argument(
        help="A recipe file, or the name of one that comes with mdp: quickstart, folder, pascal …", show_default=False
    ),
]
OptionalRecipe = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe file, or the name of one that comes with mdp: quickstart, folder, pascal …",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting, e.g. pipeline.refiner.threshold=0.7; null removes a stage. May be repeated.",
        default_factory=list,
        show_default=False,
    ),
]
PluginOption = Annotated[
    list[Path],
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="Load a plugin from a single file. May be repeated.",
        default_factory=list,
        show_default=False,
    ),
]
HomeOption = Annotated[
    Path | None, typer.Option("--home", help="Where results are kept. [default: $MDP_HOME or .mdp]", show_default=False)
]
TrackOption = Annotated[bool, typer.Option("--track/--no-track", help="Tell the observers (MLflow).")]
InlineOption = Annotated[bool, typer.Option("--inline", help="Do all steps in this process, for a debugger.")]
ExecutorOption = Annotated[
    str | None,
    typer.Option(
        "--executor", metavar="NAME", help="Where to work: serial, process, ray … [default: serial]", show_default=False
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, help="Processes that share the work; means --executor process without one.", show_default=False
    ),
]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.", show_default=False)]


def load(recipe: str, overrides: Sequence[str], plugin_files: Sequence[Path]) -> tuple[LoadedRecipe, PluginHost]:
    """Loads plugins and a recipe.

    Raises:
        MdpError: Plugins are in conflict, or the recipe has mistakes.
    """
    from mdp_core.plugins.loader import load_plugins
    from mdp_core.recipe.load import load_recipe

    host = load_plugins(plugin_files)
    host.check()
    return load_recipe(recipe, overrides, host, os.environ), host


def run(
    set_: SetOption,
    plugin: PluginOption,
    recipe: OptionalRecipe = None,
    until: UntilOption = None,
    home: HomeOption = None,
    executor: ExecutorOption = None,
    workers: WorkersOption = None,
    track: TrackOption = True,
    inline: InlineOption = False,
    from_run: FromRunOption = None,
    fresh: FreshOption = False,
    keep: KeepOption = False,
    sweep_member: Annotated[str | None, typer.Option("--sweep-member", hidden=True)] = None,
) -> None:
    """Run a recipe; what is in the store is not done again, so the same command continues a broken run."""
    check_call(recipe, from_run, fresh=fresh, keep=keep)
    with for_people(lambda: f"interrupted; what is finished is kept. Continue with:\n  {command_line()}"):
        elsewhere = executor_settings(executor, workers)
        if recipe is None:
            wish = Wish(set_, elsewhere, plugin, until, home, track, inline, fresh, keep)
            repeat(str(from_run), wish)
            return
        from rich.console import Console

        from mdp_core.cli.progress import ConsoleProgress
        from mdp_core.cli.results import show_results
        from mdp_core.engine.run import RunOptions, default_home
        from mdp_core.engine.run import run as run_recipe

        loaded, host = load(recipe, [*set_, *elsewhere], plugin)
        progress = ConsoleProgress(Console(soft_wrap=True))
        options = RunOptions(
            home=home.absolute() if home else default_home(),
            inline=inline,
            until=until,
            observers=[progress],
            track=track,
            overrides=set_,
            on_scan=progress.scanning,
            sweep=sweep_member,
        )
        with closing(progress):
            record = run_recipe(loaded, host, options)
        show_results(record, progress.console)


def executor_settings(executor: str | None, workers: int | None) -> list[str]:
    """Returns what ``--executor`` and ``--workers`` are short for."""
    use = executor or ("process" if workers is not None else None)
    chosen = [] if use is None else [f"executor.use={use}"]
    return [*chosen, *([] if workers is None else [f"executor.workers={workers}"])]


def command_line() -> str:
    """Returns the command that was called, as a person would type it."""
    return shlex.join(["mdp", *sys.argv[1:]])
