"""``mdp cache``: what is in the store, whether it is whole, and removing what no run uses. ``explain`` has a room of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdp_core.cli.explain import JsonOption, console, explain, open_cache, plain
from mdp_core.cli.messages import for_people
from mdp_core.cli.run import HomeOption

if TYPE_CHECKING:
    from mdp_core.engine.cache import Cache
    from mdp_core.engine.garbage import Garbage

app = typer.Typer(
    no_args_is_help=True, help="The store of results: what is in it, why, whether it is whole, and removing what no run uses."
)
app.command("explain")(explain)


@app.command("ls")
def ls(
    step: Annotated[
        str | None,
        typer.Argument(metavar="[STEP]", help="Only results of this step, e.g. prior-mine or mine.", show_default=False),
    ] = None,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """List the results of the store: step, plugin, images, size, age, how many runs use each, and what is wrong with it.

    Damage is shown as far as it can be seen without reading the contents; `mdp cache verify` reads them.
    """
    with for_people():
        cache = open_cache(home)
        found = [
            s for s in cache.all() if step is None or step in (s.group, s.group.split("-", 1)[1], s.group.split("-", 1)[0])
        ]
        users = cache.users()
        rows = [plain(s, users.get(s.place, [])) for s in found]
        if json_:
            typer.echo(
                json.dumps({"store": str(cache.store.root), "results": rows, "bytes": sum(s.bytes for s in found)}, indent=1)
            )
        else:
            _show_list(cache, rows, step)


@app.command("verify")
def verify(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY]...", help="Only these results. [default: all]", show_default=False)
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make damaged results incomplete: the next run makes the damaged parts anew.")
    ] = False,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Read all results and compare them with the hashes that were written down; exit code 1 if any is damaged."""
    with for_people():
        from mdp_core.engine.cache import repair as mend
        from mdp_core.engine.cache import verify as read

        cache = open_cache(home)
        chosen = [cache.find(key) for key in keys] if keys else cache.all()
        with _reading() as progress:
            verdicts = read(chosen, progress)
        bad = [v for v in verdicts if not v.whole]
        mended = {v.stored.place: mend(v) for v in bad} if repair else {}
        if json_:
            rows = [
                {"place": v.stored.place, "state": v.stored.state if v.whole else "damaged", "damaged": list(v.damaged),
                 "problem": v.problem, "repaired": mended.get(v.stored.place, False)}
                for v in verdicts
            ]  # fmt: skip
            typer.echo(json.dumps({"results": rows, "damaged": len(bad)}, indent=1))
        else:
            for v in bad:
                what = "; ".join(filter(None, [", ".join(v.damaged[:8]) + (" …" if len(v.damaged) > 8 else ""), v.problem]))
                typer.echo(f"damaged: {v.stored.place}: {what}")
            _say_verified(len(verdicts), len(bad), len(chosen) - len(verdicts), mended)
        if len(bad) > sum(mended.values()):
            raise typer.Exit(1)


@app.command("gc")
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only results not written to for so long: 30d, 12h.", show_default=False)
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Only as many, the oldest first, as bring the store to this size: 20GB.", show_default=False
        ),
    ] = None,
    runs_older_than: Annotated[
        str | None,
        typer.Option(
            metavar="AGE", help="Remove runs that began so long ago first, and what they alone use.", show_default=False
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--everything", help="Go on where there are no runs at all.")] = False,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Remove results that no run refers to, and what killed processes left behind.

    What any run under runs/ used or meant to use stays, whatever its age, and all that this was made from. With both limits, either
    is reason enough. Results that somebody works on are left alone.
    """
    with for_people():
        from mdp_core.cli.quantities import parse_age, parse_size
        from mdp_core.engine.garbage import Limits, collect, find_garbage

        limits = Limits(
            older_than=None if older_than is None else parse_age(older_than, "--older-than"),
            max_size=None if max_size is None else parse_size(max_size, "--max-size"),
            runs_older_than=None if runs_older_than is None else parse_age(runs_older_than, "--runs-older-than"),
            everything=everything,
        )
        cache = open_cache(home)
        found = find_garbage(cache, limits) if dry_run else collect(cache, limits)
        if json_:
            typer.echo(json.dumps(_plain_garbage(found, dry_run), indent=1))
        else:
            _show_garbage(found, limits.max_size, dry_run)


@contextmanager
def _reading() -> Iterator[Callable[[int, int], None]]:
    """Shows how much has been read, where there is a terminal to show it on."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task("reading results", total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def _show_list(cache: Cache, rows: list[dict[str, Any]], step: str | None) -> None:
    from rich.markup import escape
    from rich.table import Table

    from mdp_core.cli.quantities import show_age, show_size
    from mdp_core.recipe.problems import did_you_mean

    if not rows:
        groups = sorted({s.group for s in cache.all()})
        what = f" of step {step!r}{did_you_mean(step, groups)}" if step else ""
        typer.echo(f"no results{what} in {cache.store.root}")
        return
    table = Table(box=None, pad_edge=False)
    for title in ("key", "step", "plugin", "images", "size", "age", "runs", ""):
        right = title in ("images", "size", "age", "runs")
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    colour = {
        "whole": "",
        "unfinished": "[yellow]unfinished[/yellow]",
        "damaged": "[red]damaged[/red]",
        "being made": "being made",
    }
    for row in rows:
        state = colour[row["state"]] + (f", {row['parts']} parts" if row["state"] != "whole" and row["parts"] else "")
        table.add_row(
            row["key"][:12], escape(row["step"]), escape(row["plugin"]), str(row["images"] or ""), show_size(row["bytes"]),
            show_age(row["changed"]), str(len(row["runs"]) or "-"), state,
        )  # fmt: skip
    out = console()
    out.print(table)
    unused = [r for r in rows if not r["runs"]]
    total, free = sum(r["bytes"] for r in rows), sum(r["bytes"] for r in unused)
    rest = f"; {len(unused)} that no run names ({show_size(free)})" if unused else ""
    out.print(f"{len(rows)} results, {show_size(total)}{rest}", highlight=False, markup=False)


def _say_verified(read: int, bad: int, left_out: int, mended: dict[str, bool]) -> None:
    from mdp_core.errors import StoreError

    rest = f"; {left_out} being made were left out" if left_out else ""
    if not bad:
        typer.echo(f"{read} results are whole{rest}")
        return
    typer.echo(f"{bad} of {read} results are damaged{rest}")
    if not mended:
        raise StoreError("the store has damaged results", hint="`mdp cache verify --repair` lets the next run make them anew")
    busy = [place for place, done in mended.items() if not done]
    typer.echo(f"{len(mended) - len(busy)} made incomplete: the next run makes what is damaged anew, and nothing else")
    for place in busy:
        typer.echo(f"left alone, since a process works on it: {place}")


def _plain_garbage(found: Garbage, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run, "bytes": found.bytes, "store_bytes": found.total, "kept_bytes": found.kept,
        "runs": [run.id for run in found.runs],
        "results": [{"place": s.place, "bytes": s.bytes, "changed": s.changed, "state": s.state} for s in found.results],
        "leftovers": [{"path": str(f.path), "why": f.why, "bytes": f.bytes} for f in found.leftovers],
        "skipped": [s.place for s in found.skipped],
    }  # fmt: skip


def _show_garbage(found: Garbage, max_size: int | None, dry_run: bool) -> None:
    from mdp_core.cli.quantities import show_age, show_size

    verb = "would remove" if dry_run else "removed"
    for run in found.runs:
        typer.echo(f"{verb} run {run.id} ({run.status})")
    for stored in found.results:
        typer.echo(f"{verb} {stored.place}  {stored.plugin}  {show_size(stored.bytes)}, {show_age(stored.changed)} old")
    for leftover in found.leftovers:
        typer.echo(f"{verb} {leftover.path}: {leftover.why}")
    for stored in found.skipped:
        typer.echo(f"left alone, since a process works on it: {stored.place}")
    left = found.total - sum(s.bytes for s in found.results)
    typer.echo(f"{'would free' if dry_run else 'freed'} {show_size(found.bytes)}; the results that stay take {show_size(left)}")
    if max_size is not None and left > max_size:
        typer.echo(
            f"this is more than {show_size(max_size)}: runs refer to it. Remove runs first (mdp runs rm, --runs-older-than)"
        )
