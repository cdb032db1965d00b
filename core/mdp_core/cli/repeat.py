"""``mdp run --from-run``: repeats a run and compares."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mdp_core.engine.repeat import Comparison, Repetition

DIFFERENT = 3
"""Exit code where the numbers of a repetition are not those of its original."""
_MOST = 20
"""Differences that are printed; repetition.json has all."""

_HELP = (
    "Repeat this run instead of a recipe: its settings, its one-file plugins, its seed; then say whether the numbers are equal. "
    "An id, its beginning or end, or last. Exit code 0: equal, 3: numbers differ (with --set, a variation: 0), 1: failed."
)
FromRunOption = Annotated[str | None, typer.Option("--from-run", metavar="RUN", help=_HELP, show_default=False)]
FreshOption = Annotated[
    bool,
    typer.Option("--fresh", help="With --from-run: do every step again, in a store of its own that is removed at the end."),
]
KeepOption = Annotated[bool, typer.Option("--keep", help="With --fresh: keep the store, MDP_HOME/fresh/RUN.")]


@dataclass(frozen=True)
class Wish:
    """What ``mdp run --from-run`` was called with, beside the run."""

    overrides: Sequence[str] = ()
    elsewhere: Sequence[str] = ()
    files: Sequence[Path] = ()
    until: str | None = None
    home: Path | None = None
    track: bool = True
    inline: bool = False
    fresh: bool = False
    keep: bool = False


def check_call(recipe: str | None, from_run: str | None, *, fresh: bool, keep: bool) -> None:
    """Checks that a recipe or a run is given, and not both.

    Raises:
        UsageError: As typer's own: exit code 2.
    """
    if recipe is None and from_run is None:
        raise typer.BadParameter(
            "there is none; name one, for example quickstart, or a run with --from-run", param_hint="RECIPE"
        )
    if recipe is not None and from_run is not None:
        raise typer.BadParameter(
            f"--from-run {from_run} repeats the recipe of that run; leave {recipe} out, or --from-run", param_hint="RECIPE"
        )
    if fresh and from_run is None:
        raise typer.BadParameter("it belongs to --from-run RUN", param_hint="--fresh")
    if keep and not fresh:
        raise typer.BadParameter("it belongs to --from-run RUN --fresh", param_hint="--keep")


def repeat(reference: str, wish: Wish) -> None:
    """Repeats a run, shows its results and the comparison.

    Raises:
        MdpError: There is no such run, or it cannot be repeated.
        Exit: With code 3 where numbers differ that should not.
    """
    from rich.console import Console

    from mdp_core.cli.progress import ConsoleProgress
    from mdp_core.cli.results import show_results
    from mdp_core.engine import repeat as engine
    from mdp_core.engine.record import find_run
    from mdp_core.engine.run import RunOptions, default_home, open_session, run_session

    home = wish.home.absolute() if wish.home else default_home()
    original = find_run(home, reference)
    files = [file.resolve() for file in wish.files]
    progress = ConsoleProgress(Console(soft_wrap=True))
    with engine.as_it_was(original), ExitStack() as stack:
        repetition = engine.prepare(original, wish.overrides, files, elsewhere=wish.elsewhere)
        _announce(repetition, wish, progress.console)
        store = stack.enter_context(engine.fresh_store(home, original, keep=wish.keep)) if wish.fresh else None
        options = RunOptions(
            home=home, inline=wish.inline, until=wish.until or repetition.until, pretrain=repetition.pretrain,
            observers=[progress], track=wish.track, overrides=wish.overrides, on_scan=progress.scanning,
            from_run=original.id, store=store,
        )  # fmt: skip
        with closing(progress):
            session = open_session(repetition.loaded, repetition.host, options)
            for change in engine.image_differences(original.images, engine.session_images(session)):
                _warn(f"the {change}: the numbers are of other images")
            record = run_session(session, options)
        results = engine.compare_results(original, session.store, session) if wish.fresh else {}
        comparison = engine.compare(original, record, results)
        comparison.save(record.folder)
        if wish.fresh and not wish.keep:
            record.warnings.append("its results were in a store of its own, which was removed after the comparison")
            record.save()
    show_results(record, progress.console)
    varied = repetition.variation or wish.until is not None
    show_comparison(comparison, progress.console, fresh=wish.fresh, varied=varied)
    if comparison.verdict == "different" and not varied:
        raise typer.Exit(DIFFERENT)


def _announce(repetition: Repetition, wish: Wish, console: Any) -> None:
    original = repetition.original
    varied = [f"--set {o}" for o in wish.overrides] + [f"--plugin {f}" for f in wish.files]
    varied += [f"--until {wish.until}"] if wish.until else []
    what = f"a variation of {original.id} ({', '.join(varied)})" if varied else f"repeats {original.id}"
    console.print(f"{what}, started {original.started}", highlight=False, markup=False)
    for note in repetition.notes:
        _warn(note)


def _warn(text: str) -> None:
    from mdp_core.errors import MdpWarning

    warnings.warn(text, MdpWarning, stacklevel=2)


def show_comparison(comparison: Comparison, console: Any, *, fresh: bool, varied: bool) -> None:
    """Prints how a repetition compares with its original."""
    from rich.markup import escape
    from rich.table import Table

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    console.print()
    say(f"Compared with {comparison.original}" + (", of which this is a variation" if varied else ""))
    say(f"  {_steps(comparison, fresh=fresh)}")
    unequal = [p for p in comparison.metrics if p.verdict == "different"]
    say(f"  {_verdict(comparison)}")
    if unequal:
        table = Table("metric", "before", "now", "difference", box=None, pad_edge=False)
        for pair in unequal[:_MOST]:
            table.add_row(escape(pair.name), _number(pair.before), _number(pair.after), _change(pair.before, pair.after))
        console.print(table)
    others = [name for name, same in comparison.results.items() if not same]
    if comparison.results:
        count = len(comparison.results)
        named = f"; not those of {', '.join(others[:5])}{', …' if len(others) > 5 else ''}" if others else ""
        say(f"  the files of {count - len(others)} of {count} results have the same contents{named}")
    _list(say, "keys of steps that are not the same", comparison.keys)
    _list(say, "other images", comparison.images)
    _list(say, "different around it", comparison.surroundings)
    if not (comparison.keys or comparison.images or comparison.surroundings):
        say("  keys, images, versions and machine are the same")


def _list(say: Any, title: str, differences: Sequence[object]) -> None:
    if differences:
        say(f"  {title}:")
        for difference in differences[:_MOST]:
            say(f"    {difference}")
        if len(differences) > _MOST:
            say(f"    and {len(differences) - _MOST} more, see repetition.json")


def _steps(comparison: Comparison, *, fresh: bool) -> str:
    text = f"{comparison.done} of {comparison.steps} steps were done again, {comparison.hits} came from the store"
    if fresh:
        return text + (" (done before this repetition was broken off)" if comparison.hits else "")
    if comparison.hits:
        return text + ": of these, equal numbers say only that the store is whole; --fresh does every step again"
    return text


def _verdict(comparison: Comparison) -> str:
    total = len(comparison.metrics)
    count = {v: sum(p.verdict == v for p in comparison.metrics) for v in ("equal", "close", "different")}
    match comparison.verdict:
        case "nothing":
            return "there are no metrics to compare" + (
                "" if comparison.results else " (--fresh compares the files of the results)"
            )
        case "equal":
            return f"numbers: all {total} are exactly equal" if total else "there are no metrics; the results are equal"
        case "close":
            return f"numbers: {count['equal']} of {total} are exactly equal, {count['close']} up to a share of 1e-12"
        case _:
            return f"numbers: {count['different']} of {total} DIFFER" if total else "there are no metrics; the results DIFFER"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.10g}"


def _change(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{after - before:+.3g}"
