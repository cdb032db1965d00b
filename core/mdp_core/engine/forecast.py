"""What a run would do: which steps are in the store, why the others are not, how long they may take, and what is missing.

Reads the store and nothing else; imports no method and no training library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from mdp_core.engine.cache import Cache, Stored, is_locked
from mdp_core.engine.coordinate import CURVE
from mdp_core.engine.differences import Nearest, nearest
from mdp_core.engine.jobs import PART_SUFFIX, shard_size, shards
from mdp_core.engine.plan import Plan, Role, Step
from mdp_core.engine.scan import ImageSet
from mdp_core.engine.store import Entry, contents_sha256
from mdp_core.errors import MdpError
from mdp_core.plugins.hookspecs import WeightsInfo
from mdp_core.plugins.loader import PluginHost
from mdp_core.recipe.schema import Recipe
from mdp_core.settings import WEIGHT_SCHEMES, StageConfig, weight_paths

Status = Literal["hit", "damaged", "unfinished", "miss"]
_BUDGET = 256 << 20
"""Bytes that are read, at most, to see whether results are whole; beyond, it is only looked whether the files are there."""
_A_FILE = 64 << 10
"""What opening a file counts, in bytes."""
_STANDS_FOR = ("stage-key:", "file-sha256:")


@dataclass(frozen=True)
class Basis:
    """What an estimate goes by.

    Attributes:
        stored: The earlier result.
        factor: How many times its work there is to do.
        known: False where the work was taken to be the same for want of anything better.
    """

    stored: Stored
    factor: float
    known: bool

    @property
    def device(self) -> str:
        """What it was made on, where that was noted."""
        return str(self.stored.manifest.notes.get("device", "")) if self.stored.manifest else ""


@dataclass(frozen=True)
class StepForecast:
    """What would become of one step.

    Attributes:
        nearest: Of a miss, the most alike result; None where there is none.
        because: Of a miss whose inputs differ: the earlier steps that this comes from.
        done: Shards that are there, or the iteration that a training was told to have reached; total: of how many; 0 if unknown.
        damaged: Files that are missing or changed.
        checked: Whether the contents of a hit were read.
        being_made: Another process is at it.
        seconds: How long it may take; 0 of a hit, None where nothing is known.
    """

    step: Step
    status: Status
    nearest: Nearest | None = None
    because: tuple[str, ...] = ()
    done: int = 0
    total: int = 0
    damaged: tuple[str, ...] = ()
    checked: bool = True
    being_made: bool = False
    seconds: float | None = None
    basis: Basis | None = None

    @property
    def is_map(self) -> bool:
        """Whether it is done shard by shard."""
        return (self.step.kind, self.step.step) in PART_SUFFIX

    def why(self) -> str:
        """Says in a phrase why it has to be done; empty of a hit."""
        if self.status == "hit":
            return ""
        if self.status != "miss":
            return self._state()
        if self.nearest is None:
            return "never done"
        changes = [str(c) for c in self.nearest.changes]
        if changes:
            return "; ".join(changes[:2]) + (f"; and {len(changes) - 2} more" if len(changes) > 2 else "")
        return f"only its inputs differ, from {' and '.join(self.because)} on" if self.because else "only its inputs differ"

    def _state(self) -> str:
        what = f"damaged ({_few(self.damaged)})" if self.status == "damaged" else "unfinished"
        if self.is_map and self.total:
            what += f", {self.done} of {self.total} shards are there"
        elif self.status == "unfinished" and self.total:
            what += f", it got to {self.done} of {self.total} and goes on from its last checkpoint"
        return f"{what}; another process is at it" if self.being_made else what


@dataclass(frozen=True)
class Missing:
    """Weights that a run would need and that cannot be used as things are.

    Attributes:
        stages: Who needs them.
        problem: What is wrong, where it is not just that they are not here.
    """

    ref: str
    stages: tuple[str, ...]
    info: WeightsInfo | None
    problem: str = ""


@dataclass(frozen=True)
class Forecast:
    """What a run would do."""

    steps: tuple[StepForecast, ...]
    missing: tuple[Missing, ...] = ()

    @property
    def to_do(self) -> list[StepForecast]:
        """Steps that are no hits."""
        return [s for s in self.steps if s.status != "hit"]

    @property
    def seconds(self) -> float:
        """How long the steps with an estimate may take together."""
        return sum(s.seconds or 0.0 for s in self.steps)

    @property
    def unknown(self) -> list[str]:
        """Ids of steps without an estimate."""
        return [s.step.id for s in self.steps if s.seconds is None]

    @property
    def unread(self) -> int:
        """How many hits were not read, only looked for."""
        return sum(1 for s in self.steps if s.status == "hit" and not s.checked)


def forecast(
    plan: Plan, recipe: Recipe, images: Mapping[Role, ImageSet], cache: Cache, *, host: PluginHost | None = None
) -> Forecast:
    """Tells what a run would do.

    Args:
        plan: Its plan.
        recipe: Its recipe.
        images: Its images.
        cache: The store.
        host: The plugins, where weights that are missing shall be told.
    """
    forecaster = _Forecaster(recipe, {role: len(found.records) for role, found in images.items()}, cache)
    steps = tuple(forecaster.step(step) for step in plan.steps)
    return Forecast(steps, () if host is None else tuple(missing_weights(steps, recipe, host)))


def missing_weights(steps: Sequence[StepForecast], recipe: Recipe, host: PluginHost) -> Iterator[Missing]:
    """Yields weights that steps still to be done read and that are not here; ``file:`` ones were looked for with the recipe."""
    users: dict[str, list[str]] = {}
    for found in steps:
        section = recipe.pipeline.get(found.step.stage)
        if found.status == "hit" or section is None or found.step.kind == "evaluate":
            continue
        for path, ref in weight_paths(section.config):
            scheme = ref.partition(":")[0]
            if scheme in WEIGHT_SCHEMES and scheme != "file" and _has(found.step.payload.get("settings"), path):
                users.setdefault(ref, []).append(found.step.stage)
    for ref, stages in users.items():
        needing = tuple(dict.fromkeys(stages))
        try:
            info = host.describe_weights(ref)
        except MdpError as error:
            yield Missing(ref, needing, None, str(error))
            continue
        if info.problem or not info.here:
            yield Missing(ref, needing, info, info.problem)


@dataclass
class _Forecaster:
    recipe: Recipe
    counts: Mapping[Role, int]
    cache: Cache
    told: dict[str, StepForecast] = field(default_factory=dict)
    groups: dict[str, list[Stored]] = field(default_factory=dict)
    budget: int = field(default_factory=lambda: _BUDGET)

    def step(self, step: Step) -> StepForecast:
        found = self._look(step)
        self.told[step.id] = found
        return found

    def _look(self, step: Step) -> StepForecast:
        entry = self.cache.store.entry(step.kind, step.step, step.key, step.payload)
        stored = Stored(entry)
        if stored.manifest is not None:
            damaged, checked = self._damage(stored)
            if not damaged:
                return StepForecast(step, "hit", checked=checked, seconds=0.0)
            return self._partial(step, stored, "damaged", tuple(damaged))
        if (entry.folder / "manifest.json").is_file():
            return self._partial(step, stored, "damaged", ("manifest.json",))
        if (entry.folder / "key.json").is_file():
            return self._partial(step, stored, "unfinished")
        alike = nearest(step, self._group(step))
        because = self._roots(step, alike[0]) if alike else ()
        basis = self._basis(step)
        making = is_locked(entry)
        return StepForecast(
            step, "miss", alike[0] if alike else None, because, being_made=making, seconds=_seconds(basis, 1.0), basis=basis
        )

    def _partial(self, step: Step, stored: Stored, status: Status, damaged: tuple[str, ...] = ()) -> StepForecast:
        """Tells of a result of which something is there."""
        entry, done, total = stored.entry, 0, 0
        if (step.kind, step.step) in PART_SUFFIX:
            total = len(shards(self.counts[step.role], shard_size()))
            if entry.shard_size() == shard_size():
                done = len(set(stored.stamps()) - set(damaged))
        elif status == "unfinished":
            done, total = _curve(entry) or (0, 0)
        basis = self._basis(step)
        left = 1.0 - done / total if total else 1.0
        making = is_locked(entry)
        return StepForecast(
            step, status, done=done, total=total, damaged=damaged, being_made=making, seconds=_seconds(basis, left), basis=basis
        )

    def _damage(self, stored: Stored) -> tuple[list[str], bool]:
        """Returns the files that are missing or changed, and whether all contents were read."""
        if stored.missing:
            return stored.missing, True
        entry, manifest = stored.entry, stored.manifest
        damaged, checked = [], True
        for name, sha in manifest.files.items() if manifest else ():
            cost = _cost(entry.folder / name, self.budget)
            if cost > self.budget:
                checked = False
                continue
            self.budget -= cost
            if contents_sha256(entry.folder / name) != sha:
                damaged.append(name)
        return damaged, checked

    def _group(self, step: Step) -> list[Stored]:
        group = f"{step.kind}-{step.step}"
        if group not in self.groups:
            self.groups[group] = self.cache.of(group)
        return self.groups[group]

    def _roots(self, step: Step, alike: Nearest) -> tuple[str, ...]:
        """Returns the steps that a difference of inputs comes from."""
        found: list[str] = []
        for slot, source in step.inputs.items():
            if slot in alike.inputs or (slot.startswith("weights:") and "weights" in alike.inputs):
                told = self.told.get(source)
                found += told.because if told and told.because and not (told.nearest and told.nearest.changes) else (source,)
        return tuple(dict.fromkeys(found))

    def _basis(self, step: Step) -> Basis | None:
        """Finds the earlier result of the same plugin that says most about the time of a step."""
        ours = step.payload.get("plugin", {}).get("name")
        there = [n for n in nearest(step, self._group(step)) if n.stored.entry.payload.get("plugin", {}).get("name") == ours]
        on_gpu = _has_gpu(self.recipe.device)
        there = [n for n in there if n.stored.manifest is not None and n.stored.manifest.seconds > 0]
        if not there:
            return None
        best = min(there, key=lambda n: (_made_on_gpu(n.stored) not in (None, on_gpu), _distance(n)))
        return self._scaled(step, best.stored)

    def _scaled(self, step: Step, stored: Stored) -> Basis:
        images, manifest = self.counts[step.role], stored.manifest
        before = manifest.images if manifest else 0
        if (step.kind, step.step) in PART_SUFFIX or step.kind == "evaluate" or step.step == "select":
            same = stored.entry.payload.get("images") == step.payload.get("images")
            return Basis(stored, images / before if before else 1.0, bool(before) or same)
        config = self.recipe.pipeline[step.stage].config
        then = config_of(config, stored.entry.payload.get("settings") or {})
        ours, theirs = config.fit_effort(images), then.fit_effort(before or images) if then else None
        return Basis(stored, ours / theirs, True) if ours and theirs else Basis(stored, 1.0, False)


def config_of(like: StageConfig, settings: Mapping[str, Any]) -> StageConfig | None:
    """Returns settings as a stored payload has them; what the payload leaves out or holds as a hash is as in ``like``."""
    try:
        return type(like).model_validate(_overlaid(like.model_dump(mode="json"), settings))
    except ValidationError:  # of another version of the plugin
        return None


def _overlaid(below: Any, above: Any) -> Any:
    if isinstance(above, Mapping) and isinstance(below, Mapping):
        return {**below, **{name: _overlaid(below.get(name), value) for name, value in above.items()}}
    return below if isinstance(above, str) and above.startswith(_STANDS_FOR) else above


def _seconds(basis: Basis | None, left: float) -> float | None:
    if basis is None or basis.stored.manifest is None:
        return None
    return basis.stored.manifest.seconds * basis.factor * left


def _distance(found: Nearest) -> int:
    return sum(1 for change in found.changes if not change.in_words)


def _has_gpu(device: str) -> bool:
    return device.startswith("cuda") or (device == "auto" and any(Path("/dev").glob("nvidia[0-9]*")))


def _made_on_gpu(stored: Stored) -> bool | None:
    device = stored.manifest.notes.get("device") if stored.manifest else None
    return None if device is None else str(device).startswith("cuda")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _has(settings: Any, path: Sequence[str | int]) -> bool:
    """Whether settings of a payload hold a place."""
    try:
        for part in path:
            settings = settings[part]
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _curve(entry: Entry) -> tuple[int, int] | None:
    """Returns how far a training told to have come: (done, total)."""
    try:
        with (entry.folder / CURVE).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - (64 << 10)))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            last = json.loads(line)
            return int(last["done"]), int(last["total"])
        except (ValueError, KeyError, TypeError):  # the line that a kill cut off
            continue
    return None


def _cost(path: Path, most: int) -> int:
    """Returns what reading a file or folder costs, in bytes; more than ``most`` as soon as it is known to be more."""
    if path.is_file():
        return path.stat().st_size + _A_FILE
    total = 0
    for file in path.rglob("*"):
        total += (file.stat().st_size if file.is_file() else 0) + _A_FILE
        if total > most:
            break
    return total
