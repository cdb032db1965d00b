"""``mdp cache explain``: what a stored result was made of, and how a recipe's steps differ from the nearest results."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdp_core.cli.messages import for_people
from mdp_core.cli.run import HomeOption, PluginOption, SetOption, load

if TYPE_CHECKING:
    from rich.console import Console

    from mdp_core.engine.cache import Cache, Stored
    from mdp_core.engine.differences import Nearest
    from mdp_core.engine.forecast import StepForecast

JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
_WIDE = 200
"""Columns where there is no terminal to say how many."""
_NEAREST = 3
"""How many stored results an explanation compares with."""


def explain(
    target: Annotated[
        str,
        typer.Argument(
            metavar="KEY|RECIPE", help="The key of a result (its beginning is enough), or a recipe.", show_default=False
        ),
    ],
    set_: SetOption,
    plugin: PluginOption,
    step: Annotated[
        str | None,
        typer.Argument(metavar="[STEP]", help="Of a recipe: only this step, e.g. detector.fit.", show_default=False),
    ] = None,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Say what a stored result was made of and who uses it; or, of a recipe, how its steps differ from the nearest results."""
    with for_people():
        cache = open_cache(home)
        if _is_key(target):
            _explain_key(cache, target, json_)
        else:
            _explain_recipe(cache, target, set_, plugin, step, json_)


def open_cache(home: Path | None) -> Cache:
    """Opens the store of a home."""
    from mdp_core.engine.cache import Cache
    from mdp_core.engine.run import default_home

    return Cache(home.absolute() if home else default_home())


def progress_of(quiet: bool) -> Any:
    """Gives a display of progress on stderr; closes it."""
    from rich.console import Console

    from mdp_core.cli.progress import ConsoleProgress

    return closing(ConsoleProgress(Console(soft_wrap=True, stderr=True, quiet=quiet)))


def plain(stored: Stored, users: Sequence[str]) -> dict[str, Any]:
    """Returns what is known of a result without reading its contents, JSON-ready."""
    manifest = stored.manifest
    return {
        "key": stored.key, "step": stored.group, "plugin": stored.plugin, "state": stored.state,
        "images": (manifest.images or None) if manifest else None, "parts": stored.parts or None,
        "seconds": manifest.seconds if manifest else None, "bytes": stored.bytes, "changed": stored.changed, "runs": list(users),
    }  # fmt: skip


def console() -> Console:
    """Returns the terminal, or lines wide enough for tables where there is none."""
    from rich.console import Console

    return Console() if Console().is_terminal else Console(width=_WIDE)


def _is_key(target: str) -> bool:
    from mdp_core.recipe.layers import shipped_folder

    if Path(target).is_file() or (shipped_folder() / f"{target}.yaml").is_file():
        return False
    return re.fullmatch(r"([a-z]+-[a-z]+/)?[0-9a-f]{4,32}", target) is not None


def _explain_key(cache: Cache, reference: str, json_: bool) -> None:
    stored = cache.find(reference)
    users = cache.users().get(stored.place, [])
    by_key = {s.key: s for s in cache.all()}
    made_from_it = sorted(s.place for s in by_key.values() if stored.key in s.inputs().values())
    if json_:
        manifest = stored.manifest
        content = {
            **plain(stored, users), "payload": stored.entry.payload, "inputs": _plain_inputs(stored, by_key),
            "made_from_it": made_from_it, "notes": dict(manifest.notes) if manifest else {},
            "warnings": list(manifest.warnings) if manifest else [],
        }  # fmt: skip
        typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
        return
    _show_stored(stored, users, console())
    typer.echo("made of:")
    for line in _payload_lines(stored.entry.payload) or ["not recorded: key.json is missing"]:
        typer.echo(f"  {line}")
    if lines := _tree(stored, by_key, "  ", set()):
        typer.echo("its inputs, and theirs:")
        typer.echo("\n".join(lines))
    if made_from_it:
        typer.echo(f"made from it: {', '.join(_short_place(p) for p in made_from_it)}")


def _show_stored(stored: Stored, users: Sequence[str], console: Console) -> None:
    from mdp_core.cli.quantities import show_age, show_duration, show_size

    manifest = stored.manifest
    typer.echo(f"{stored.group} {stored.key}")
    lines = [("plugin", stored.plugin), ("state", stored.state), ("folder", str(stored.entry.folder))]
    lines.append(("size", f"{show_size(stored.bytes)}, last written to {show_age(stored.changed)} ago"))
    if manifest is not None:
        images = f" for {manifest.images} images" if manifest.images else ""
        lines.append(("time", f"{show_duration(manifest.seconds)}{images}"))
        lines += [*manifest.notes.items(), *(("warning", text) for text in manifest.warnings)]
    elif stored.parts:
        lines.append(("parts", str(stored.parts)))
    lines.append(
        ("runs", ", ".join(users) if users else "none: `mdp cache gc` removes it unless a kept result was made from it")
    )
    for name, value in lines:
        console.print(f"  {name:<10} {value}", highlight=False, markup=False, soft_wrap=True)


def _payload_lines(payload: Any, path: str = "") -> list[str]:
    """Returns what a key was made of, but for its inputs: one dotted name a line."""
    lines: list[str] = []
    for name, value in payload.items():
        if path or name != "inputs":
            full = f"{path}.{name}" if path else str(name)
            lines += _payload_lines(value, full) if isinstance(value, dict) and value else [f"{full}: {json.dumps(value)}"]
    return lines


def _tree(stored: Stored, by_key: dict[str, Stored], indent: str, told: set[str]) -> list[str]:
    """Returns a line an input, and below it its own; of one that was told of before only its name."""
    lines: list[str] = []
    for slot, key in stored.inputs().items():
        source = by_key.get(key)
        if source is None:
            lines.append(f"{indent}{slot}: {key[:12]}, no longer in the store")
            continue
        state = "" if source.state == "whole" else f", {source.state}"
        lines.append(f"{indent}{slot}: {_short_place(source.place)} ({source.plugin}{state})")
        if key not in told:
            told.add(key)
            lines += _tree(source, by_key, indent + "  ", told)
    return lines


def _plain_inputs(stored: Stored, by_key: dict[str, Stored]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for slot, key in stored.inputs().items():
        source = by_key.get(key)
        known = {"step": source.group, "state": source.state, "inputs": _plain_inputs(source, by_key)} if source else {}
        found[slot] = {"key": key, "there": source is not None, **known}
    return found


def _short_place(place: str) -> str:
    group, _, key = place.partition("/")
    return f"{group}/{key[:12]}"


def _explain_recipe(
    cache: Cache, recipe: str, overrides: list[str], plugins: list[Path], wanted: str | None, json_: bool
) -> None:
    from mdp_core.engine.differences import nearest
    from mdp_core.engine.forecast import forecast
    from mdp_core.engine.run import RunOptions, open_session
    from mdp_core.errors import RecipeError
    from mdp_core.recipe.problems import did_you_mean

    loaded, host = load(recipe, overrides, plugins)
    with progress_of(json_) as progress:
        session = open_session(loaded, host, RunOptions(home=cache.home, on_scan=progress.scanning))
    found = forecast(session.plan, loaded.recipe, session.images, cache).steps
    names = [s.step.id for s in found]
    chosen = [s for s in found if wanted is None or s.step.id == wanted or s.step.id.startswith(f"{wanted}[")]
    if not chosen:
        raise RecipeError(f"no step {wanted!r}{did_you_mean(wanted, names)}", hint=f"its steps are: {', '.join(names)}")
    told = [(s, nearest(s.step, cache.of(f"{s.step.kind}-{s.step.step}"))[:_NEAREST]) for s in chosen]
    if json_:
        typer.echo(json.dumps({"steps": [_plain_told(s, near) for s, near in told]}, indent=1, ensure_ascii=False))
        return
    for step, near in told:
        if wanted is not None or step.status != "hit":
            _show_told(step, near)
    if all(s.status == "hit" for s, _ in told) and wanted is None:
        typer.echo("every step is in the store; `mdp cache explain KEY` says what a result was made of")


def _plain_told(step: StepForecast, near: Sequence[Nearest]) -> dict[str, Any]:
    return {
        "id": step.step.id,
        "key": step.step.key,
        "status": step.status,
        "why": step.why(),
        "nearest": [
            {"result": n.stored.place, "inputs": list(n.inputs),
             "changes": [{"setting": c.setting, "old": c.old, "new": c.new} for c in n.changes]}
            for n in near
        ],
    }  # fmt: skip


def _show_told(step: StepForecast, near: Sequence[Nearest]) -> None:
    from mdp_core.cli.quantities import show_age

    if step.status == "hit":
        typer.echo(f"{step.step.id}: in the store; `mdp cache explain {step.step.key[:12]}` says what it was made of")
        return
    typer.echo(f"{step.step.id} ({step.step.plugin}): {step.why()}")
    if step.status == "miss":
        for n in near:
            typer.echo(f"  beside {_short_place(n.stored.place)}, {show_age(n.stored.completed)} old:")
            for change in n.changes:
                typer.echo(f"    {change}")
            for slot in n.inputs:
                typer.echo(f"    input {slot}: {_from(step, slot)}")


def _from(step: StepForecast, slot: str) -> str:
    """Says which step fills a slot."""
    sources = [s for name, s in step.step.inputs.items() if name == slot or (slot == "weights" and name.startswith("weights:"))]
    return f"another result of {' and '.join(sources)}" if sources else "another result"
