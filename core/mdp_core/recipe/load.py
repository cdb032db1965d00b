"""Loads a recipe: all its layers, all its mistakes at once, every setting with its origin."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from mdp_core.errors import MdpError, PluginError
from mdp_core.recipe import schema
from mdp_core.recipe.environment import substitute
from mdp_core.recipe.layers import Layers, RecipeText, find_recipe, merge, shown
from mdp_core.recipe.overrides import parse_overrides
from mdp_core.recipe.phrases import got
from mdp_core.recipe.problems import InvalidRecipeError, Problem, did_you_mean, dotted
from mdp_core.recipe.schema import (
    Catalogue,
    DataSection,
    ExecutorSection,
    Header,
    ObserverSection,
    Recipe,
    StageSection,
    SweepSection,
)
from mdp_core.recipe.sentences import explain, explain_booleans
from mdp_core.recipe.source import Keys, Node, marks
from mdp_core.settings import Settings, StageConfig, stage_of, weight_paths

ModelT = TypeVar("ModelT", bound=Settings)
_STAGE_ID = re.compile(r"[a-z][a-z0-9-]*")
_SECTIONS = ("data", "pipeline", "executor", "observers", "sweep")


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe that is ready to run.

    Attributes:
        recipe: The typed recipe.
        resolved: Every setting, defaults included, JSON-ready; in the shape of a recipe, so that it can be loaded again.
        origins: Setting (``pipeline.prior.topk``) → ``recipes/pascal.yaml:7``, ``--set`` or ``default``.
        merged: What the layers say together, references to the environment unreplaced; defaults are not in it.
        source: The recipe as messages show it.
        files: The files it was read from.
    """

    recipe: Recipe
    resolved: dict[str, Any]
    origins: dict[str, str]
    merged: dict[str, Any]
    source: str
    files: tuple[Path, ...]


def load_recipe(
    source: str | Path | RecipeText, overrides: Sequence[str], catalogue: Catalogue, environ: Mapping[str, str]
) -> LoadedRecipe:
    """Loads and checks a recipe.

    Args:
        source: A file, the name of a recipe that comes with mdp (``quickstart``), or a text.
        overrides: ``pipeline.prior.topk=0.2`` each, as after ``--set``.
        catalogue: The plugins.
        environ: The environment's variables.

    Raises:
        InvalidRecipeError: Every mistake that was found, each with its place.
        RecipeError: There is no such recipe.
    """
    problems: list[Problem] = []
    layers = Layers(catalogue, problems)
    name, merged = _merged(source, overrides, layers)
    complete, failed = substitute(merged, environ, problems)
    problems += _not_finite(complete)
    recipe = _Checker(catalogue, complete, problems, failed).recipe()
    if problems or recipe is None:
        raise InvalidRecipeError(name, problems)
    resolved = resolve(recipe)
    origins = {dotted(keys): _origin(complete, keys) for keys in leaves(resolved)}
    return LoadedRecipe(recipe, resolved, origins, merged.plain(), name, tuple(layers.files))


def _merged(source: str | Path | RecipeText, overrides: Sequence[str], layers: Layers) -> tuple[str, Node]:
    """Returns what messages call a recipe, and all its layers in one tree."""
    if isinstance(source, RecipeText):
        name, tree = source.name, layers.read_text(source)
    else:
        path = find_recipe(source)
        name, tree = shown(path), layers.read_file(path)
    pipeline = tree.get(("pipeline",)) if tree else None
    over = parse_overrides(overrides, pipeline.mapping if pipeline else (), layers.problems)
    if tree is None:
        raise InvalidRecipeError(name, layers.problems)
    return name, merge(tree, over, layers.catalogue)


@dataclass(frozen=True)
class SweptRecipe:
    """What a sweep must know of its recipe, which need not be complete: a variation may say the rest.

    Attributes:
        name: The recipe as messages show it.
        sweep: Its ``sweep:`` section.
        stages: Ids of its stages.
        seed: Its seed; None where what it says is no seed.
    """

    name: str
    sweep: SweepSection
    stages: tuple[str, ...]
    seed: int | None


def read_sweep(source: str | Path | RecipeText, overrides: Sequence[str], catalogue: Catalogue) -> SweptRecipe:
    """Reads the ``sweep:`` section of a recipe, its references to the environment unreplaced.

    The rest of the recipe is checked when each variation is loaded.

    Raises:
        InvalidRecipeError: The section has mistakes, or the recipe is no YAML.
        RecipeError: There is no such recipe.
    """
    problems: list[Problem] = []
    name, merged = _merged(source, overrides, Layers(catalogue, problems))
    if problems:
        raise InvalidRecipeError(name, problems)
    section = _Checker(catalogue, merged, problems).sweep()
    if problems:
        raise InvalidRecipeError(name, problems)
    pipeline, seed = merged.get(("pipeline",)), merged.get(("seed",))
    value = 0 if seed is None else seed.value
    stages = tuple(pipeline.mapping) if pipeline else ()
    known = value if isinstance(value, int) and not isinstance(value, bool) else None
    return SweptRecipe(name, section or SweepSection(), stages, known)


def resolve(recipe: Recipe) -> dict[str, Any]:
    """Returns every setting of a recipe, JSON-ready, in the shape of a recipe."""
    dumped = recipe.model_dump(mode="json")
    if dumped["executor"] is None:
        del dumped["executor"]
    for section in (dumped["data"], *dumped["pipeline"].values(), dumped.get("executor", {}), *dumped["observers"]):
        section.update(section.pop("config", {}))
        if section.get("kind") not in schema.SUPPORTED:
            section.pop("support", None)
        if section.get("time_limit", 0) is None:
            del section["time_limit"]
    order = ("name", "description", "seed", "device", "data", "pipeline", "evaluate", "executor", "observers")
    return {key: dumped[key] for key in order if key in dumped}


def leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yields the paths of all settings: everything that is no mapping, and empty mappings."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def _origin(tree: Node, path: Sequence[str]) -> str:
    node = tree
    for key in path:
        if not isinstance(node.value, dict):
            break
        if key not in node.value:
            return "default"
        node = node.value[key]
    return node.place.origin


@dataclass
class _Checker:
    """Checks one merged tree, collecting every mistake."""

    catalogue: Catalogue
    tree: Node
    problems: list[Problem]
    failed: set[Keys] = field(default_factory=set)

    def recipe(self) -> Recipe | None:
        header = self._settings(Header, _without(self.tree, _SECTIONS), (), _SECTIONS)
        data = self._data()
        pipeline = self._pipeline()
        executor = self._executor()
        observers = self._observers()
        sweep = self.sweep()
        if header is None or data is None or self.problems:
            return None
        return Recipe(**dict(header), data=data, pipeline=pipeline, executor=executor, observers=tuple(observers), sweep=sweep)

    def sweep(self) -> SweepSection | None:
        """Returns what the section ``sweep`` says; None where there is none."""
        node = self.tree.get(("sweep",))
        if node is None or node.value is None:
            return None
        if not isinstance(node.value, dict):
            self._report(node, ("sweep",), "expected a mapping such as {vary: {pipeline.prior.topk: [0.2, 0.4]}, seeds: 5}")
            return None
        return self._settings(SweepSection, node, ("sweep",), ())

    def _report(self, node: Node, path: Keys, message: str, *, at_key: bool = False) -> None:
        if path not in self.failed:
            self.problems.append(Problem(node.place if at_key else node.mark, dotted(path), message))

    def _section(self, path: Keys, example: str) -> Node | None:
        """Returns the mapping at a path, or reports that there is none."""
        node = self.tree.get(path)
        if node is None:
            self._report(self.tree, path, f"required setting is missing; expected {example}", at_key=True)
        elif not isinstance(node.value, dict):
            self._report(node, path, f"expected {example}")
        else:
            return node
        return None

    def _data(self) -> DataSection | None:
        node = self._section(("data",), "a mapping such as {use: folder, root: photos}")
        plugin = self._plugin(node, ("data",), "dataset", schema.SECTION_KEYS) if node else None
        return DataSection(use=plugin[0], config=plugin[1]) if plugin else None

    def _executor(self) -> ExecutorSection | None:
        node = self.tree.get(("executor",))
        if node is None or node.value is None:
            return None
        if isinstance(node.value, str):
            node = Node({"use": node}, node.mark)  # a bare name is short for {use: name}
        if not isinstance(node.value, dict):
            self._report(node, ("executor",), "expected a mapping such as {use: process, workers: 2}")
            return None
        plugin = self._plugin(node, ("executor",), "executor", schema.SECTION_KEYS)
        return ExecutorSection(use=plugin[0], config=plugin[1]) if plugin else None

    def _observers(self) -> list[ObserverSection]:
        node = self.tree.get(("observers",))
        if node is None:
            return []
        if not isinstance(node.value, list):
            self._report(node, ("observers",), "expected a list of mappings such as {use: mlflow}")
            return []
        found = []
        for i, item in enumerate(node.value):
            path = ("observers", i)
            if not isinstance(item.value, dict):
                item = Node({"use": item}, item.mark)  # noqa: PLW2901 - a bare name is short for {use: name}
            plugin = self._plugin(item, path, "observer", schema.SECTION_KEYS)
            if plugin:
                found.append(ObserverSection(use=plugin[0], config=plugin[1]))
        return found

    def _pipeline(self) -> dict[str, StageSection]:
        node = self._section(("pipeline",), "a mapping of stages such as {prior: {use: dino-affinity}}")
        if node is None:
            return {}
        if not node.mapping:
            self._report(node, ("pipeline",), "a pipeline needs at least one stage")
        found = {}
        for name, section in node.mapping.items():
            stage = self._stage(name, section, list(node.mapping))
            if stage:
                self._weights(name, section, stage.config, node)
                found[name] = stage
        return found

    def _weights(self, name: str, section: Node, config: StageConfig, pipeline: Node) -> None:
        """Checks that each ``stage:NAME`` names a pretrainer that stands before the stage."""
        names = list(pipeline.mapping)
        kinds = {stage: _kind_of(stage, node) for stage, node in pipeline.mapping.items()}
        earlier = [stage for stage in names[: names.index(name)] if kinds[stage] == "pretrainer"]
        for path, ref in weight_paths(config):
            wanted = stage_of(ref)
            if wanted is None or wanted in earlier:
                continue
            there = f"before it are: {', '.join(earlier)}" if earlier else "there is none before it"
            if wanted == name:
                message = f"a stage cannot take its own weights; name a pretrainer before it ({there})"
            elif kinds.get(wanted) == "pretrainer":
                message = f"the pretrainer '{wanted}' comes after this stage; put it before ({there})"
            elif wanted in names:
                message = f"stage '{wanted}' is a {kinds[wanted]}, and only a pretrainer makes weights ({there})"
            else:
                message = f"no pretrainer named '{wanted}' before this stage{did_you_mean(wanted, earlier)} ({there})"
            place = section.get(path)
            self._report(place or section, ("pipeline", name, *path), message, at_key=place is None)

    def _stage(self, name: str, node: Node, names: list[str]) -> StageSection | None:
        path = ("pipeline", name)
        if node.value is None:
            others = [other for other in names if other != name]
            message = f"no stage to remove{did_you_mean(name, others)}; a stage with default settings is written {name}: {{}}"
            self._report(node, path, message, at_key=True)
            return None
        if not isinstance(node.value, dict):
            self._report(node, path, "expected a mapping such as {use: NAME}")
            return None
        if not _STAGE_ID.fullmatch(name):
            self._report(node, path, "a stage's id is lower-case letters, digits and dashes, a letter first", at_key=True)
        kind = self._kind(name, node, path)
        taken = self._input(name, node, names, path)
        plugin = self._plugin(node, path, kind, schema.STAGE_KEYS) if kind else None
        support, limit = self._support(node, kind, path), self._time_limit(node, path)
        if not kind or not plugin:
            return None
        return StageSection(kind=kind, use=plugin[0], input=taken, support=support, time_limit=limit, config=plugin[1])

    def _time_limit(self, node: Node, path: Keys) -> float | None:
        given = node.mapping.get("time_limit")
        if given is None or given.value is None:
            return None
        number = given.value
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < float("inf"):
            self._report(given, (*path, "time_limit"), f"expected seconds > 0, or null, got {got(given.plain())}")
            return None
        return float(number)

    def _support(self, node: Node, kind: str | None, path: Keys) -> bool:
        given = node.mapping.get("support")
        if given is None:
            return True
        if not isinstance(given.value, bool):
            self._report(given, (*path, "support"), f"expected true or false, got {got(given.plain())}")
        elif kind not in schema.SUPPORTED:
            names = " or ".join(map(_a, schema.SUPPORTED))
            self._report(given, (*path, "support"), f"only {names} can learn from data.support, this is {_a(str(kind))}")
        return bool(given.value)

    def _kind(self, name: str, node: Node, path: Keys) -> str | None:
        given = node.mapping.get("kind")
        kinds = ", ".join(schema.STAGE_KINDS)
        if given is not None:
            if given.value in schema.STAGE_KINDS:
                return str(given.value)
            guess = did_you_mean(given.value, schema.STAGE_KINDS)
            self._report(given, (*path, "kind"), f"no kind of stage named {got(given.plain())}{guess} (there are: {kinds})")
            return None
        if name in schema.STAGE_KINDS:
            return name
        guess = did_you_mean(name, schema.STAGE_KINDS)
        message = f"required setting is missing, as '{name}' is no kind of stage{guess} (there are: {kinds})"
        self._report(node, (*path, "kind"), message, at_key=True)
        return None

    def _input(self, name: str, node: Node, names: list[str], path: Keys) -> str | None:
        given = node.mapping.get("input")
        if given is None or given.value is None:
            return None
        earlier = names[: names.index(name)]
        if given.value in earlier:
            return str(given.value)
        there = f"before it are: {', '.join(earlier)}" if earlier else "it is the first"
        guess = did_you_mean(given.value, earlier)
        self._report(given, (*path, "input"), f"no stage named {got(given.plain())} before this one{guess} ({there})")
        return None

    def _plugin(self, node: Node, path: Keys, kind: str, keys: Sequence[str]) -> tuple[str, StageConfig] | None:
        """Returns the plugin that a section names, with its settings."""
        given = node.mapping.get("use")
        use: Any = self.catalogue.default(kind) if given is None else given.value
        names = ", ".join(self.catalogue.names(kind)) or "none"
        if use is None and given is None:
            self._report(
                node, (*path, "use"), f"required setting is missing; expected {_a(kind)} (there are: {names})", at_key=True
            )
            return None
        if not isinstance(use, str):
            self._report(
                given or node,
                (*path, "use"),
                f"expected the name of {_a(kind)}, got {got(given.plain() if given else use)} (there are: {names})",
            )
            return None
        try:
            name = self.catalogue.resolve_alias(kind, use)
            model = self.catalogue.config(kind, name)
        except PluginError as error:
            self._report(given or node, (*path, "use"), _in_one_line(error))
            return None
        config = self._settings(model, _without(node, keys), path, keys)
        return (name, config) if config is not None else None

    def _settings(self, model: type[ModelT], node: Node, path: Keys, more: Sequence[str]) -> ModelT | None:
        self.problems += explain_booleans(model, node, path)
        try:
            return model.model_validate(node.plain())
        except ValidationError as error:
            self.problems += explain(error, model, node, path, skip=self.failed, more=more)
        except MdpError as error:
            self._report(node, path, _in_one_line(error), at_key=True)
        return None


def _not_finite(tree: Node) -> Iterator[Problem]:
    """Yields the numbers that JSON has no words for, and so neither a key nor a record of a run."""
    for path, (_, mark) in marks(tree).items():
        node = tree.get(path)
        if node is not None and isinstance(node.value, float) and not math.isfinite(node.value):
            yield Problem(mark, dotted(path), "a setting is a finite number; write null where there is to be no limit")


def _without(node: Node, keys: Sequence[str]) -> Node:
    return replace(node, value={name: child for name, child in node.mapping.items() if name not in keys})


def _kind_of(name: str, section: Node) -> str:
    given = section.mapping.get("kind")
    return name if given is None else str(given.value)


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _in_one_line(error: MdpError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message
