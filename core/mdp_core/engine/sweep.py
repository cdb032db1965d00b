"""A sweep: every variation of a recipe loaded, checked and planned before any of them runs, and its state on disk.

``sweeps/<id>/``::

    sweep.json   the state, rewritten whole at each event
    3.yaml       the third run's recipe with every setting, as it was checked: what the run is given
    3.log        what the run printed
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from mdp_core.data.storage import write_json, write_text
from mdp_core.engine.keys import canonical, digest
from mdp_core.engine.plan import Plan, Role, Step
from mdp_core.engine.planner import make_plan
from mdp_core.engine.record import RunRecord, all_runs
from mdp_core.engine.run import RunOptions, open_session
from mdp_core.engine.scan import ImageSet
from mdp_core.engine.store import Store, disk_errors, read_json
from mdp_core.errors import MdpError, RecipeError, RunError
from mdp_core.plugins.loader import PluginHost
from mdp_core.recipe.load import LoadedRecipe, load_recipe
from mdp_core.recipe.problems import InvalidRecipeError, did_you_mean
from mdp_core.recipe.show import show
from mdp_core.recipe.variations import Axes, Variation

_ELSEWHERE = ("device", "executor", "observers")
"""Sections that say where a sweep is made and who is told: with others it is the same sweep."""
MemberStatus = Literal["waiting", "running", "finished", "failed", "interrupted"]


@dataclass(frozen=True)
class Member:
    """One run of a sweep, ready to be made.

    Attributes:
        number: From 1, in the order of the variations.
        missing: Keys of its steps that were not in the store when the sweep was planned.
    """

    number: int
    variation: Variation
    loaded: LoadedRecipe
    plan: Plan
    missing: frozenset[str]

    @property
    def keys(self) -> frozenset[str]:
        """Keys of all its steps."""
        return frozenset(step.key for step in self.plan.steps)


@dataclass(frozen=True)
class Sweep:
    """A planned sweep.

    Attributes:
        id: The recipe's name and a digest of the settings varied, the resolved recipes and the keys of all steps: the same
            command over the same images and plugins is the same sweep.
        recipe: The recipe as messages show it.
    """

    id: str
    home: Path
    recipe: str
    axes: Axes
    members: tuple[Member, ...]

    @property
    def folder(self) -> Path:
        """Where its state and its logs lie."""
        return self.home / "sweeps" / self.id

    def tag(self, member: Member) -> str:
        """What the record of a member's run says: ``ID/NUMBER``."""
        return f"{self.id}/{member.number}"

    def steps(self) -> tuple[int, int, int]:
        """Returns how many steps the runs have: one by one, distinct ones, distinct ones that are in the store."""
        distinct = frozenset[str]().union(*(m.keys for m in self.members))
        missing = frozenset[str]().union(*(m.missing for m in self.members))
        return sum(len(m.plan.steps) for m in self.members), len(distinct), len(distinct - missing)


def plan_sweep(
    source: str, overrides: Sequence[str], axes: Axes, host: PluginHost, environ: Mapping[str, str], options: RunOptions
) -> Sweep:
    """Loads, checks and plans all variations of a recipe; opens each split's images once, and writes nothing but that scan.

    Raises:
        RecipeError: Every mistake of every variation, each with the variations it is in.
    """
    members: list[Member] = []
    problems: dict[str, list[Variation]] = {}
    images: dict[str, Mapping[Role, ImageSet]] = {}
    variations = axes.variations()
    for variation in variations:
        try:
            loaded = load_recipe(source, [*overrides, *variation.overrides], host, environ)
            plan = _plan(loaded, host, options, images)
        except InvalidRecipeError as error:
            for problem in error.problems:
                problems.setdefault(str(problem), []).append(variation)
        except MdpError as error:
            problems.setdefault(f"{error.message} ({error.hint})" if error.hint else error.message, []).append(variation)
        else:
            members.append(Member(len(members) + 1, variation, loaded, plan, frozenset()))
    if problems:
        raise _invalid(source, problems, variations)
    _check_distinct(members)
    missing = _missing(Store(options.home), (step for m in members for step in m.plan.steps))
    members = [replace(m, missing=m.keys & missing) for m in members]
    made_of = {
        "varied": {"vary": axes.vary, "seeds": axes.seeds},
        "recipes": [{k: v for k, v in m.loaded.resolved.items() if k not in _ELSEWHERE} for m in members],
        "steps": [[step.key for step in m.plan.steps] for m in members],
    }
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", members[0].loaded.recipe.name).strip("-.") or "sweep"
    return Sweep(f"{name}-{digest(made_of)[:8]}", options.home, members[0].loaded.source, axes, tuple(members))


def _plan(loaded: LoadedRecipe, host: PluginHost, options: RunOptions, known: dict[str, Mapping[Role, ImageSet]]) -> Plan:
    """Plans one recipe; variations of the same images share what was learned of them."""
    recipe = loaded.recipe
    trains_only = all(section.kind == "pretrainer" for section in recipe.pipeline.values())
    same = canonical([loaded.resolved["data"], bool(recipe.evaluate), trains_only])
    if same not in known:
        session = open_session(loaded, host, options)
        known[same] = session.images
        return session.plan
    return make_plan(recipe, host, known[same], until=options.until)


def _missing(store: Store, steps: Iterable[Step]) -> frozenset[str]:
    distinct = {step.key: step for step in steps}
    entries = {key: store.entry(step.kind, step.step, key, step.payload) for key, step in distinct.items()}
    return frozenset(key for key, entry in entries.items() if entry.manifest() is None)


def _check_distinct(members: Sequence[Member]) -> None:
    first: dict[str, Member] = {}
    for member in members:
        other = first.setdefault(canonical(member.loaded.resolved), member)
        if other is not member:
            raise RecipeError(
                f"two variations are the same recipe: {other.variation} and {member.variation}",
                hint="write each value once; a setting that another one overrides does not vary anything",
            )


def _invalid(source: str, problems: Mapping[str, Sequence[Variation]], variations: Sequence[Variation]) -> RecipeError:
    """Returns one error of all mistakes, those with the same variations together."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for problem, where in problems.items():
        groups.setdefault(tuple(map(str, where)), []).append(problem)
    lines = [f"{len(problems)} mistake{'s' * (len(problems) > 1)} in the variations of {source}; nothing was run"]
    for names, found in groups.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        named = f"all {len(variations)}" if len(names) == len(variations) > 1 else "; ".join(names[:3]) + more
        lines += [f"  {named}:", *(f"    {line}" for text in found for line in text.splitlines())]
    swapped = len(groups) and any(name.endswith(".use") for name in variations[0].settings)
    hint = (
        "a plugin's own settings are varied together with it: --vary 'prior={use: a, topk: 0.2},{use: b}'" if swapped else None
    )
    return RecipeError("\n".join(lines), hint=hint)


@dataclass
class MemberState:
    """How far one run of a sweep is.

    Attributes:
        settings: Setting → value as YAML, with the seed where seeds are varied: what sets the run apart.
        run: Id of its newest run.
        error: Why it failed; log: the file with its output, below the sweep's folder.
    """

    number: int
    settings: dict[str, str]
    status: MemberStatus = "waiting"
    run: str | None = None
    error: str | None = None
    log: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        return str(Variation(self.settings))


@dataclass
class SweepState:
    """What sweep.json holds; the records of the runs are the truth about which are finished.

    Attributes:
        metrics: What its table shows.
    """

    folder: Path
    recipe: str
    command: str
    members: list[MemberState]
    metrics: Sequence[str] = ()
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def id(self) -> str:
        """The sweep's id: the name of its folder."""
        return self.folder.name

    @property
    def varied(self) -> tuple[str, ...]:
        """What it varies beside the seed, with dots."""
        return tuple(dict.fromkeys(name for member in self.members for name in member.settings if name != "seed"))

    def save(self) -> None:
        """Writes sweep.json."""
        content = {
            "id": self.id,
            "recipe": self.recipe,
            "command": self.command,
            "metrics": self.metrics,
            "started": self.started,
        }
        with disk_errors(self.folder):
            write_json(self.folder / "sweep.json", {**content, "members": [asdict(m) for m in self.members]})

    @classmethod
    def read(cls, folder: Path) -> SweepState:
        """Reads a sweep's state.

        Raises:
            RunError: There is none, or it is damaged.
        """
        content = read_json(folder / "sweep.json")
        try:
            if content is not None:
                known = {f.name for f in fields(MemberState)}
                members = [MemberState(**{k: v for k, v in m.items() if k in known}) for m in content["members"]]
                return cls(
                    folder, content["recipe"], content["command"], members, content.get("metrics", ()), content["started"]
                )
        except (KeyError, TypeError, AttributeError):
            pass
        raise RunError(f"{folder / 'sweep.json'}: missing or damaged", hint="the command of the sweep writes it anew")


def open_state(sweep: Sweep, command: str) -> SweepState:
    """Returns the state of a sweep as it is now, and writes it with the recipes of the runs."""
    finished = {record.sweep: record for record in sweep_runs(sweep.home, sweep.id) if record.status == "finished"}
    members = []
    for member in sweep.members:
        settings = dict(item.split("=", 1) for item in member.variation.overrides)
        one = MemberState(member.number, settings, log=f"{member.number}.log")
        record = finished.get(sweep.tag(member))
        if record is not None:
            one.status, one.run, one.seconds = "finished", record.id, record.seconds
        members.append(one)
        with disk_errors(sweep.folder):
            write_text(sweep.folder / f"{member.number}.yaml", show(member.loaded, resolved=True))
    state = SweepState(sweep.folder, sweep.recipe, command, members, sweep.axes.metrics)
    state.save()
    return state


def sweep_runs(home: Path, sweep_id: str) -> list[RunRecord]:
    """Returns all runs that a sweep made, oldest first."""
    return [r for r in all_runs(home) if r.sweep is not None and r.sweep.rpartition("/")[0] == sweep_id]


def member_runs(home: Path, state: SweepState) -> tuple[list[RunRecord], list[MemberState]]:
    """Returns the newest finished run of each member of a sweep, and the members that have none."""
    finished = {r.sweep: r for r in sweep_runs(home, state.id) if r.status == "finished"}
    tags = {f"{state.id}/{m.number}": m for m in state.members}
    return [finished[tag] for tag in tags if tag in finished], [m for tag, m in tags.items() if tag not in finished]


def find_sweep(home: Path, reference: str) -> SweepState:
    """Returns a sweep by its id, the unique beginning or end of its id, or ``last``.

    Raises:
        RunError: No such sweep, or more than one.
    """
    files: dict[str, Any] = {f.parent.name: f for f in (home / "sweeps").glob("*/sweep.json")}
    if not files:
        raise RunError(
            f"there are no sweeps in {home}", hint="start one with `mdp sweep`, or name another MDP_HOME with --home"
        )
    if reference == "last":
        return SweepState.read(max(files.values(), key=lambda f: f.stat().st_mtime).parent)
    found = [n for n in files if n == reference] or [n for n in files if n.startswith(reference) or n.endswith(reference)]
    if len(found) != 1:
        there = ", ".join(sorted(found or files)[:5])
        what = f"{len(found)} sweeps are" if found else f"no sweep{did_you_mean(reference, files)}; there are"
        raise RunError(f"{reference}: {what} named like that: {there}" if found else f"{reference}: {what}: {there}")
    return SweepState.read(home / "sweeps" / found[0])
