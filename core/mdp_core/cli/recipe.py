"""``mdp recipe``."""

from __future__ import annotations

from typing import Annotated

import typer

from mdp_core.cli.messages import for_people
from mdp_core.cli.run import PluginOption, RecipeArgument, SetOption, load

app = typer.Typer(no_args_is_help=True, help="Check recipes and see what they say.")


@app.command("show")
def show(
    recipe: RecipeArgument,
    set_: SetOption,
    plugin: PluginOption,
    resolved: Annotated[bool, typer.Option("--resolved", help="Every setting, defaults too, each with its origin.")] = False,
) -> None:
    """Print a recipe after `extends` and `--set`."""
    with for_people():
        from mdp_core.recipe.show import show as text_of

        loaded, _ = load(recipe, set_, plugin)
        typer.echo(text_of(loaded, resolved=resolved), nl=False)


@app.command("validate")
def validate(
    recipes: Annotated[list[str], typer.Argument(help="Recipe files or names.", show_default=False)],
    set_: SetOption,
    plugin: PluginOption,
) -> None:
    """Check recipes: every mistake at once, with its place; nothing is run."""
    with for_people():
        from mdp_core.errors import MdpError, RecipeError

        problems: list[MdpError] = []
        for name in recipes:
            try:
                loaded, _ = load(name, set_, plugin)
                typer.echo(f"{loaded.source}: no mistakes")
            except RecipeError as error:
                problems.append(error)
        if problems:
            raise RecipeError("\n".join(str(p) for p in problems))
