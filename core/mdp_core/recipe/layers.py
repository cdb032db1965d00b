"""Recipes in layers: finding files, ``extends:``, and laying one tree over another."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mdp_core.errors import PluginError, RecipeError
from mdp_core.recipe.problems import Mark, Problem
from mdp_core.recipe.schema import STAGE_KEYS, Catalogue
from mdp_core.recipe.source import Keys, Node, parse
from mdp_core.settings import StageConfig

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class RecipeText:
    """A recipe that lies in no file.

    Attributes:
        text: The YAML.
        name: What messages call it.
        folder: Where ``extends:`` looks for files; by default the current directory.
    """

    text: str
    name: str = "<recipe>"
    folder: Path = Path()


def shipped_folder() -> Path:
    """Returns the folder of the recipes that come with mdp (in a wheel, or in a checkout)."""
    inside = _PACKAGE / "_shipped" / "recipes"
    return inside if inside.is_dir() else _PACKAGE.parents[1] / "recipes"


def shown(path: Path) -> str:
    """Returns a path as messages show it: relative to the current directory where it lies below it."""
    absolute, here = Path(os.path.abspath(path)), Path.cwd()  # '..' goes, links stay
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def find_recipe(name: str | Path, folder: Path | None = None) -> Path:
    """Finds a recipe by its path, or by the name of a recipe in ``folder`` or of one that comes with mdp.

    Args:
        name: ``recipes/pascal.yaml``, ``pascal`` or ``ablations/no-refiner``.
        folder: What relative paths are relative to; by default the current directory.

    Raises:
        RecipeError: There is none; the hint says which are near.
    """
    path = (folder or Path()) / Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise RecipeError(f"{shown(path)} is a folder, not a recipe", hint=_offer("", _recipes_in(path)))
    if path.suffix not in (".yaml", ".yml"):
        for candidate in (path.with_name(f"{path.name}.yaml"), shipped_folder() / f"{name}.yaml"):
            if candidate.is_file():
                return candidate
    near = {**_recipes_in(path.parent / "recipes"), **_recipes_in(path.parent)}
    raise RecipeError(
        f"no such recipe: {shown(path)}", hint=_offer(path.name, {**_recipes_in(shipped_folder(), names=True), **near})
    )


def _recipes_in(folder: Path, *, names: bool = False) -> dict[str, str]:
    """Returns the recipes of a folder: name → how messages show it."""
    files = sorted(folder.rglob("*.yaml") if names else folder.glob("*.yaml")) if folder.is_dir() else []
    return {f.stem: f.relative_to(folder).with_suffix("").as_posix() if names else shown(f) for f in files}


def _offer(name: str, recipes: Mapping[str, str]) -> str:
    close = difflib.get_close_matches(Path(name).stem, recipes, 3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(recipes[c] for c in close)}?"
    return f"there are: {', '.join(recipes.values())}" if recipes else "there are no recipes near it"


@dataclass
class Layers:
    """Reads a recipe and what it extends, and merges them.

    Attributes:
        catalogue: The plugins; tells whether two names mean one plugin.
        problems: Takes the mistakes.
        files: All files that were read, in order.
    """

    catalogue: Catalogue
    problems: list[Problem]
    files: list[Path] = field(default_factory=list)

    def read_file(self, path: Path, chain: Sequence[Path] = ()) -> Node | None:
        """Reads a file with everything that it extends; None where it is no recipe at all."""
        name = shown(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text; a recipe is a YAML file in UTF-8"
            self.problems.append(Problem(Mark(name), "", f"cannot be read: {reason}"))
            return None
        self.files.append(path)
        return self._read(text, name, path.parent, (*chain, path.resolve()))

    def read_text(self, source: RecipeText) -> Node | None:
        """Reads a recipe from memory with everything that it extends."""
        return self._read(source.text, source.name, source.folder, ())

    def _read(self, text: str, name: str, folder: Path, chain: Sequence[Path]) -> Node | None:
        tree = parse(text, name, self.problems)
        if tree is None:
            return None
        if not isinstance(tree.value, dict):
            what = "it is empty" if tree.value is None else "its top level is no mapping"
            self.problems.append(Problem(tree.mark, "", f"not a recipe: {what}; a recipe has at least name, data and pipeline"))
            return None
        own = replace(tree, value={key: node for key, node in tree.value.items() if key != "extends"})
        base: Node | None = None
        for target, place in self._targets(tree):
            below = self._extended(target, place, folder, chain)
            if below is None:
                return None
            base = below if base is None else merge(base, below, self.catalogue)
        return own if base is None else replace(merge(base, own, self.catalogue), mark=own.mark)

    def _targets(self, tree: Node) -> list[tuple[str, Mark]]:
        extends = tree.get(("extends",))
        if extends is None:
            return []
        found = []
        for node in extends.value if isinstance(extends.value, list) else [extends]:
            if isinstance(node.value, str):
                found.append((node.value, node.mark))
            else:
                self.problems.append(Problem(node.mark, "extends", "expected a recipe file or a list of them"))
        return found

    def _extended(self, target: str, place: Mark, folder: Path, chain: Sequence[Path]) -> Node | None:
        try:
            path = find_recipe(target, folder)
        except RecipeError as error:
            self.problems.append(Problem(place, "extends", f"{error.message} ({error.hint})"))
            return None
        if path.resolve() in chain:
            circle = [*chain[chain.index(path.resolve()) :], path]
            self.problems.append(Problem(place, "extends", f"a circle: {' → '.join(shown(p) for p in circle)}"))
            return None
        return self.read_file(path, chain)


def merge(base: Node, over: Node, catalogue: Catalogue) -> Node:
    """Lays one recipe over another.

    Mappings are merged key by key; lists and scalars replace; a null removes a stage. Where a layer puts another plugin into
    a section, the settings of the former plugin go, but for those of a stage that both plugins inherit from one settings
    class. A new stage comes before the stage that follows it in its own layer, otherwise at the end.
    """
    return _merge(base, over, catalogue, ())


def _merge(base: Node, over: Node, catalogue: Catalogue, path: Keys) -> Node:
    if path == ("executor",) and isinstance(base.value, str):
        base = Node({"use": base}, base.mark, base.key)  # a bare name is short for {use: name}
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    below, place = dict(base.value), base
    kind = _section_kind(path)
    if kind is not None and ("use" in over.value or "kind" in over.value):
        former = _plugin(below, kind, catalogue)
        now = _plugin({**below, **over.value}, kind, catalogue)
        if former != now:
            stays = () if path in _SINGLE else _staying(former, now, catalogue)
            below, place = {name: node for name, node in below.items() if name in stays}, over
    merged = dict(below)
    for name, node in over.value.items():
        if path == ("pipeline",) and node.value is None and name in merged:
            del merged[name]
        else:
            merged[name] = _merge(merged[name], node, catalogue, (*path, name)) if name in merged else node
    if path == ("pipeline",):
        merged = {name: merged[name] for name in _order(list(below), over.value) if name in merged}
    return Node(merged, place.mark, place.key)


_SINGLE: Mapping[Keys, str] = {("data",): "dataset", ("executor",): "executor"}
"""Sections that one plugin fills, and its kind."""


def _section_kind(path: Keys) -> str | None:
    """Returns the kind of plugin that fills the section at a path; None where it is no section."""
    if path in _SINGLE:
        return _SINGLE[path]
    return str(path[1]) if len(path) == 2 and path[0] == "pipeline" else None


def _plugin(section: Mapping[str, Node], kind: str, catalogue: Catalogue) -> tuple[Any, Any]:
    """Returns what tells plugins apart: kind and name, without aliases."""
    if kind not in _SINGLE.values() and "kind" in section:
        kind = str(section["kind"].value)
    use = section["use"].value if "use" in section else catalogue.default(kind)
    return kind, catalogue.resolve_alias(kind, use) if isinstance(use, str) else use


def _staying(former: tuple[Any, Any], now: tuple[Any, Any], catalogue: Catalogue) -> Set[str]:
    """Returns the keys of a stage that stay where another plugin takes its place.

    Two priors on one network share what their settings class says of the network; swapping them compares methods, not networks.
    """
    if former[0] != now[0]:
        return {"input"}
    stays = set(STAGE_KEYS) - {"use"}
    with suppress(PluginError):
        ours, theirs = (catalogue.config(kind, name).__mro__ for kind, name in (former, now))
        for base in ours:
            if base in theirs and issubclass(base, StageConfig) and base is not StageConfig:
                stays |= set(base.model_fields)
    return stays


def _order(base: Sequence[str], over: Mapping[str, Node]) -> list[str]:
    """Returns the ids of the stages in their new order. Two overrides of a command line have no order among themselves."""
    names, upper = list(base), list(over)
    for i, name in enumerate(upper):
        if name in names:
            continue
        mark = over[name].place
        later = (o for o in upper[i + 1 :] if o in names and (not mark.is_override or over[o].place.source == mark.source))
        follower = next(later, None)
        names.insert(len(names) if follower is None else names.index(follower), name)
    return names
