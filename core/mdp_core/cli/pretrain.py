"""``mdp pretrain``."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdp_core.cli.messages import for_people
from mdp_core.cli.run import (
    ExecutorOption,
    HomeOption,
    InlineOption,
    PluginOption,
    RecipeArgument,
    SetOption,
    TrackOption,
    WorkersOption,
    command_line,
    executor_settings,
    load,
)

if TYPE_CHECKING:
    from rich.console import Console

    from mdp_core.engine.record import RunRecord
    from mdp_core.engine.run import Session
    from mdp_core.plugins.loader import PluginHost
    from mdp_core.recipe.load import LoadedRecipe


def pretrain(
    recipe: RecipeArgument,
    set_: SetOption,
    plugin: PluginOption,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Copy the weights to this .safetensors file.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --out replace a file with other contents.")] = False,
    stage: Annotated[
        str | None,
        typer.Option("--stage", metavar="STAGE", help="The pretrainer to train. [default: the last]", show_default=False),
    ] = None,
    home: HomeOption = None,
    executor: ExecutorOption = None,
    workers: WorkersOption = None,
    track: TrackOption = True,
    inline: InlineOption = False,
) -> None:
    """Train the backbone of a recipe on its images, without labels; the same command continues a broken training."""
    with for_people(lambda: f"interrupted; the last checkpoint is kept. Continue with:\n  {command_line()}"):
        from rich.console import Console

        from mdp_core.cli.progress import ConsoleProgress
        from mdp_core.cli.results import show_results
        from mdp_core.engine.run import RunOptions, default_home, open_session, run_session

        loaded, host = load(recipe, [*set_, *executor_settings(executor, workers)], plugin)
        wanted = pretrainer_of(loaded, host, stage)
        target = None if out is None else _checked(out.expanduser().absolute())
        progress = ConsoleProgress(Console(soft_wrap=True))
        options = RunOptions(
            home=home.absolute() if home else default_home(),
            inline=inline,
            pretrain=wanted,
            observers=[progress],
            track=track,
            overrides=set_,
            on_scan=progress.scanning,
        )
        with closing(progress):
            session = open_session(loaded, host, options)
            if target is not None and not force:
                _refuse_to_replace(target, stored_sha256(session, wanted), session, wanted)
            record = run_session(session, options)
        if target is not None:
            _copy(session, wanted, target, force=force)
        show_results(record, progress.console)
        _show_use(record, wanted, target, progress.console)


def pretrainer_of(loaded: LoadedRecipe, host: PluginHost, stage: str | None) -> str:
    """Returns the id of the pretrainer that is to be trained: the one asked for, else the last of the pipeline.

    Raises:
        RecipeError: There is none, or the stage asked for is none.
    """
    from mdp_core.errors import RecipeError
    from mdp_core.recipe.problems import did_you_mean

    pipeline = loaded.recipe.pipeline
    found = [name for name, section in pipeline.items() if section.kind == "pretrainer"]
    if not found:
        names = host.names("pretrainer")
        use = host.default("pretrainer") or (names[0] if names else "NAME")
        reader = next((name for name, section in pipeline.items() if section.kind == "prior"), "prior")
        raise RecipeError(
            f"{loaded.source}: there is no pretrainer in its pipeline",
            hint=f"put one first, and name it where its weights are to be read: "
            f"pipeline: {{pretrainer: {{use: {use}}}, {reader}: {{weights: stage:pretrainer, …}}, …}} "
            f"(pretrainers: {', '.join(names) or 'none is installed'})",
        )
    if stage is not None and stage not in found:
        what = f"a {pipeline[stage].kind}" if stage in pipeline else f"no stage of {loaded.source}"
        raise RecipeError(
            f"--stage {stage}: it is {what}{did_you_mean(stage, found)}", hint=f"its pretrainers are: {', '.join(found)}"
        )
    return found[-1] if stage is None else stage


def stored_sha256(session: Session, stage: str) -> str | None:
    """Returns the sha256 of the weights that a pretrainer has made before, or None where it is still to be trained."""
    from mdp_core.settings import file_sha256

    entry = session.entry(session.plan.step(session.plan.weights[stage]))
    if entry.manifest() is None or entry.damage():
        return None
    return file_sha256(_weights(session, stage))


def _weights(session: Session, stage: str) -> Path:
    from mdp_core.stages.pretrainer import BACKBONE

    return session.entry(session.plan.step(session.plan.weights[stage])).result / BACKBONE


def _checked(out: Path) -> Path:
    """Returns the file for the weights.

    Raises:
        RecipeError: It cannot be written; better known before a training of hours than after it.
    """
    from mdp_core.errors import RecipeError

    if out.suffix != ".safetensors" or out.is_dir():
        raise RecipeError(f"--out {out}: weights are written to a file whose name ends with .safetensors")
    there = next(parent for parent in out.parents if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise RecipeError(f"--out {out}: {there} cannot be written", hint="name a file in a folder of your own")
    return out


def _refuse_to_replace(out: Path, sha256: str | None, session: Session, stage: str) -> None:
    """Raises if ``out`` is there and holds anything but the weights of that sha256 (None: not trained yet)."""
    from mdp_core.errors import RecipeError
    from mdp_core.settings import file_sha256

    if not out.exists() or (sha256 is not None and file_sha256(out) == sha256):
        return
    made = "" if sha256 is None else f"; the weights of this recipe are in {_weights(session, stage)}"
    raise RecipeError(
        f"--out {out}: the file is there already, with other contents{made}",
        hint="name another file, or replace it with --force",
    )


def _copy(session: Session, stage: str, out: Path, *, force: bool) -> None:
    """Copies the weights: whoever opens ``out`` finds the file of before, or all of the new one."""
    import shutil

    from mdp_core.data.storage import replacing
    from mdp_core.errors import StoreError

    source = _weights(session, stage)
    if not force:
        _refuse_to_replace(out, stored_sha256(session, stage), session, stage)
    try:
        with replacing(out) as temporary:
            shutil.copyfile(source, temporary)
    except OSError as error:
        raise StoreError(f"--out {out}: cannot be written ({error.strerror})", hint=f"the weights are in {source}") from error


def _show_use(record: RunRecord, stage: str, out: Path | None, console: Console) -> None:
    weights = out or record.home / record.results["weights"][stage]["file"]
    if out is not None:
        console.print(f"copied to {out}", highlight=False, markup=False)
    console.print("in the stages of other recipes write:", highlight=False)
    console.print(f"  weights: file:{weights}", highlight=False, markup=False)
