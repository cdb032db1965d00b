"""``mdp run`` and ``mdp plan``."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdp_core.cli.messages import for_people

if TYPE_CHECKING:
    from mdp_core.engine.run import Session
    from mdp_core.plugins.loader import PluginHost
    from mdp_core.recipe.load import LoadedRecipe

RecipeArgument = Annotated[
    str,
    typer.Argument(
        help="A recipe file, or the name of one that comes with mdp: quickstart, folder, pascal …", show_default=False
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
    recipe: RecipeArgument,
    set_: SetOption,
    plugin: PluginOption,
    until: UntilOption = None,
    home: HomeOption = None,
    executor: ExecutorOption = None,
    workers: WorkersOption = None,
    track: TrackOption = True,
    inline: InlineOption = False,
    sweep_member: Annotated[str | None, typer.Option("--sweep-member", hidden=True)] = None,
) -> None:
    """Run a recipe; what is in the store is not done again, so the same command continues a broken run."""
    with for_people(lambda: f"interrupted; what is finished is kept. Continue with:\n  {command_line()}"):
        from rich.console import Console

        from mdp_core.cli.progress import ConsoleProgress
        from mdp_core.cli.results import show_results
        from mdp_core.engine.run import RunOptions, default_home
        from mdp_core.engine.run import run as run_recipe

        loaded, host = load(recipe, [*set_, *executor_settings(executor, workers)], plugin)
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


def plan(
    recipe: RecipeArgument,
    set_: SetOption,
    plugin: PluginOption,
    until: UntilOption = None,
    home: HomeOption = None,
) -> None:
    """Show the steps of a recipe: which are in the store, and for the others what differs from the nearest stored one."""
    with for_people():
        from rich.console import Console

        from mdp_core.cli.progress import ConsoleProgress
        from mdp_core.engine.run import RunOptions, default_home, open_session

        loaded, host = load(recipe, set_, plugin)
        console = Console(soft_wrap=True)
        with closing(ConsoleProgress(console)) as progress:
            options = RunOptions(home=home.absolute() if home else default_home(), until=until, on_scan=progress.scanning)
            session = open_session(loaded, host, options)
        _show_plan(session, console)


def _show_plan(session: Session, console: Any) -> None:
    from rich.markup import escape
    from rich.table import Table

    for role, images in session.images.items():
        bad = f", {len(images.bad)} bad ones are skipped" if images.bad else ""
        console.print(f"{role}: split {images.split}, {len(images.records)} images{bad}", highlight=False)
    for text in session.warnings():
        console.print(f"[yellow]warning:[/yellow] {escape(text)}", highlight=False)
    table = Table("step", "plugin", "", "why", box=None, pad_edge=False)
    for step in session.plan.steps:
        if session.entry(step).manifest() is not None:
            table.add_row(escape(step.id), step.plugin, "[green]in the store[/green]", step.key[:12])
        else:
            table.add_row(
                escape(step.id), step.plugin, "to do", escape(_why(session.store.nearest(step.kind, step.step, step.payload)))
            )
    console.print(table)


def _why(differences: list[str] | None) -> str:
    if differences is None:
        return "never done"
    # Keys of inputs, and of trainings behind stage:NAME, differ whenever something before the step does; the setting itself says more.
    telling = [d for d in differences if not d.startswith("inputs.") and d.count("stage-key:") < 2] or ["its inputs changed"]
    return "; ".join(telling[:2]) + (f"; and {len(telling) - 2} more" if len(telling) > 2 else "")
