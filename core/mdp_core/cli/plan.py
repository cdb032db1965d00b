"""``mdp plan``: what a run would do, before it does it."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdp_core.cli.messages import for_people
from mdp_core.cli.run import HomeOption, PluginOption, RecipeArgument, SetOption, UntilOption, load

if TYPE_CHECKING:
    from rich.console import Console

    from mdp_core.engine.forecast import Basis, Forecast, Missing, StepForecast
    from mdp_core.engine.run import Session

JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
_WIDE = 200
"""Columns where there is no terminal to say how many."""


def plan(
    recipe: RecipeArgument,
    set_: SetOption,
    plugin: PluginOption,
    until: UntilOption = None,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Show what a run would do: which steps are in the store, why the others are not, how long they may take, what is missing.

    Nothing is run or downloaded. Times are estimated from earlier results in the store.
    """
    with for_people():
        from rich.console import Console

        from mdp_core.cli.progress import ConsoleProgress
        from mdp_core.engine.cache import Cache
        from mdp_core.engine.forecast import forecast
        from mdp_core.engine.run import RunOptions, default_home, open_session

        loaded, host = load(recipe, set_, plugin)
        with closing(ConsoleProgress(Console(soft_wrap=True, stderr=json_))) as progress:
            options = RunOptions(home=home.absolute() if home else default_home(), until=until, on_scan=progress.scanning)
            session = open_session(loaded, host, options)
        found = forecast(session.plan, loaded.recipe, session.images, Cache(options.home), host=host)
        if json_:
            typer.echo(json.dumps(plain(session, found), indent=1, ensure_ascii=False))
        else:
            _show(session, found, Console() if Console().is_terminal else Console(width=_WIDE))


def plain(session: Session, found: Forecast) -> dict[str, Any]:
    """Returns a forecast, JSON-ready."""
    return {
        "recipe": session.loaded.source,
        "home": str(session.store.home),
        "images": {
            role: {"split": i.split, "count": len(i.records), "bad": len(i.bad), "fingerprint": i.fingerprint}
            for role, i in session.images.items()
        },
        "steps": [_plain_step(step) for step in found.steps],
        "to_do": len(found.to_do),
        "seconds": round(found.seconds, 1),
        "unknown": found.unknown,
        "missing": [_plain_missing(m) for m in found.missing],
        "broken_plugins": [f"{b.entry_point} from {b.distribution} {b.version}: {b.error}" for b in session.host.broken],
        "warnings": session.warnings(),
    }


def _plain_step(found: StepForecast) -> dict[str, Any]:
    step, near, basis = found.step, found.nearest, found.basis
    return {
        "id": step.id, "stage": step.stage, "kind": step.kind, "step": step.step, "plugin": step.plugin, "key": step.key,
        "status": found.status, "why": found.why(), "because": list(found.because),
        "nearest": near and near.stored.place,
        "changes": [{"setting": c.setting, "old": c.old, "new": c.new} for c in near.changes] if near else [],
        "done": found.done, "total": found.total, "damaged": list(found.damaged), "checked": found.checked,
        "being_made": found.being_made,
        "seconds": None if found.seconds is None else round(found.seconds, 1),
        "estimated_from": basis and {
            "result": basis.stored.place, "factor": round(basis.factor, 4), "device": basis.device, "scaled": basis.known,
        },
    }  # fmt: skip


def _plain_missing(missing: Missing) -> dict[str, Any]:
    info = missing.info
    return {
        "ref": missing.ref,
        "used_by": list(missing.stages),
        "origin": info and info.origin,
        "licence": info and info.licence,
        "size": info and info.size,
        "problem": missing.problem,
        "fetch": None if info is None else f"mdp weights fetch {missing.ref}",
    }


def _show(session: Session, found: Forecast, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    for role, images in session.images.items():
        bad = f", {len(images.bad)} bad ones are skipped" if images.bad else ""
        console.print(f"{role}: split {images.split}, {len(images.records)} images{bad}", highlight=False, markup=False)
    for text in session.warnings():
        console.print(f"[yellow]warning:[/yellow] {escape(text)}", highlight=False)
    table = Table(box=None, pad_edge=False)
    for title in ("step", "plugin", "", "time"):
        table.add_column(title, no_wrap=True)
    table.add_column("why", overflow="fold")
    for step in found.steps:
        hit = step.status == "hit"
        state = "[green]in the store[/green]" if hit else "to do"
        why = f"[dim]{step.step.key[:12]}[/dim]" if hit else escape(step.why())
        table.add_row(escape(step.step.id), escape(step.step.plugin), state, "" if hit else _time(step), why)
    console.print(table)
    for missing in found.missing:
        _show_missing(missing, console)
    for broken in session.host.broken:
        text = escape(f"{broken.entry_point} from {broken.distribution} {broken.version}: {broken.error}")
        console.print(f"[yellow]a plugin that is broken:[/yellow] {text}", highlight=False)
    for text in _sum(found):
        console.print(text, highlight=False, markup=False)


def _time(step: StepForecast) -> str:
    from mdp_core.cli.quantities import show_duration

    return "?" if step.seconds is None else f"about {show_duration(step.seconds)}"


def _show_missing(missing: Missing, console: Console) -> None:
    from rich.markup import escape

    from mdp_core.cli.quantities import show_size

    info, users = missing.info, ", ".join(missing.stages)
    if info is None or missing.problem:
        console.print(
            f"[red]cannot be used:[/red] {escape(missing.ref)} (for {escape(users)}): {escape(missing.problem)}",
            highlight=False,
        )
        return
    size = "size unknown" if info.size is None else f"about {show_size(info.size)}"
    facts = f"{missing.ref} (for {users}), {size}, licence {info.licence}, from {info.origin}"
    console.print(f"[yellow]not here:[/yellow] {escape(facts)}", highlight=False)
    console.print(f"  → mdp weights fetch {missing.ref}", highlight=False, markup=False)


def _sum(found: Forecast) -> list[str]:
    """Says what there is to do and how long it may take, and how sure that is."""
    from mdp_core.cli.quantities import show_duration

    to_do, unknown = found.to_do, found.unknown
    if not to_do:
        lines = ["nothing to do: every step is in the store"]
    elif len(unknown) == len(to_do):
        lines = [f"to do: {len(to_do)} of {len(found.steps)} steps; how long they take is not known before they were done once"]
    else:
        more = f", and {len(unknown)} of which nothing is known" if unknown else ""
        lines = [f"to do: {len(to_do)} of {len(found.steps)} steps, about {show_duration(found.seconds)}{more}"]
        lines += _grounds([s.basis for s in to_do if s.basis is not None])
    if found.unread:
        lines.append(f"{found.unread} results were looked for but not read whole; `mdp cache verify` does that")
    return lines


def _grounds(bases: list[Basis]) -> list[str]:
    """Says what estimates go by."""
    devices = sorted({b.device for b in bases if b.device})
    where = f", on {' and '.join(devices)}" if devices else ""
    unscaled = sum(1 for b in bases if not b.known)
    as_it_was = f"; of {unscaled} it is taken to be as much work as before" if unscaled else ""
    return [f"(from earlier results in this store{where}{as_it_was})"]
