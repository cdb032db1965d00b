"""Compares runs: groups of runs that are equal but for the seed, the settings in which they differ, metrics with paired differences."""

from __future__ import annotations

import fnmatch
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mdp_core.engine.comparability import comparability_warnings, provenance_notes
from mdp_core.engine.costs import costs
from mdp_core.engine.keys import canonical
from mdp_core.engine.record import RunRecord
from mdp_core.errors import RunError
from mdp_core.recipe.load import leaves
from mdp_core.recipe.problems import did_you_mean, dotted
from mdp_core.recipe.source import parse
from mdp_core.recipe.variations import text_of

ASIDE = ("name", "description", "seed", "device", "executor", "observers", "sweep")
"""Sections of a recipe in which runs of one group may differ: names, what repeats it, and where it was done."""
ABSENT = "—"
"""What a table shows for a setting that a recipe does not have."""
CONFIDENCE = 0.95
_SHARES = (
    "miou", "miou_absent_zero", "pixel_accuracy", "hit", "hit_any", "mean_best_iou", "corloc", "acc", "nmi", "ari", "purity",
    "ap", "ap50", "ap75", "box_ap", "box_ap50", "ar100",
)  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """A metric over seeds.

    Attributes:
        mean: Arithmetic mean.
        std: Sample standard deviation (divisor n - 1); None for a single value.
        n: How many values.
    """

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Difference(Summary):
    """Paired differences to the baseline, over the seeds that both have.

    Attributes:
        low, high: 95 % interval of the mean difference by Student's t with n - 1 degrees of freedom; None for a single pair.
    """

    low: float | None
    high: float | None


def summarise(values: Sequence[float]) -> Summary | None:
    """Returns mean and sample standard deviation of values; None where there are none."""
    if not values:
        return None
    return Summary(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def paired(ours: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Returns the differences ours - baseline over the seeds that both have; None where they share none."""
    own = summarise([ours[seed] - baseline[seed] for seed in sorted(ours.keys() & baseline.keys())])
    if own is None:
        return None
    if own.std is None:
        return Difference(own.mean, None, own.n, None, None)
    from scipy.special import stdtrit  # the quantile behind scipy.stats.t, without a second of imports

    half = float(stdtrit(own.n - 1, 0.5 + CONFIDENCE / 2)) * own.std / math.sqrt(own.n)
    return Difference(own.mean, own.std, own.n, own.mean - half, own.mean + half)


def is_share(metric: str) -> bool:
    """Tells whether a metric is a share in [0, 1], which people read in per cent."""
    name = metric.partition(".")[2] or metric
    return name.rpartition(".")[2] in _SHARES or name.startswith("iou/") or ".iou/" in name


@dataclass(frozen=True)
class Group:
    """Runs that are equal but for the seed.

    Attributes:
        runs: Seed → its run.
        settings: Every setting, with dots → value; of ``images``, what their files contained.
    """

    runs: Mapping[int, RunRecord]
    settings: Mapping[str, Any]

    def shown(self, setting: str) -> str:
        """Returns a setting as a table shows it: texts as they are, everything else as YAML."""
        if setting not in self.settings:
            return ABSENT
        value = self.settings[setting]
        return value if isinstance(value, str) else text_of(value)

    def values(self, metric: str) -> dict[int, float]:
        """Returns a metric by seed; runs without it, or with no finite number, are left out."""
        found = {seed: {**costs(run.steps), **run.metrics}.get(metric) for seed, run in sorted(self.runs.items())}
        return {seed: float(v) for seed, v in found.items() if isinstance(v, int | float) and math.isfinite(v)}


@dataclass(frozen=True)
class Comparison:
    """What ``mdp compare`` shows.

    Attributes:
        groups: One row each.
        columns: Settings in which the rows differ.
        metrics: Names of the metrics shown.
        baseline: Position of the group that the others are compared with.
        warnings: Reasons why numbers cannot be compared; notes: what else a reader should know.
    """

    groups: tuple[Group, ...]
    columns: tuple[str, ...]
    metrics: tuple[str, ...]
    baseline: int
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def summary(self, group: Group, metric: str) -> Summary | None:
        """Returns a metric of a group over its seeds."""
        return summarise(list(group.values(metric).values()))

    def difference(self, group: Group, metric: str) -> Difference | None:
        """Returns how a group differs from the baseline; None for the baseline itself, or where they share no seed."""
        base = self.groups[self.baseline]
        return None if group is base else paired(group.values(metric), base.values(metric))


def compare(
    runs: Iterable[RunRecord],
    *,
    metrics: Sequence[str] = (),
    usual: Sequence[str] = (),
    varied: Sequence[str] = (),
    all_metrics: bool = False,
    baseline: str | None = None,
    notes: Sequence[str] = (),
) -> Comparison:
    """Compares runs.

    Args:
        runs: The runs, in the order in which their groups are to stand; those that are not finished are named and left out.
        metrics: Names or patterns (``*.miou``); a name without its stage means every stage's. Beside the scores there is what a
            stage cost (``mdp_core.engine.costs``). By default ``usual``, or the mIoU of every stage.
        usual: The same, but names that no run has are passed over.
        varied: What a sweep varied, with dots: only these settings, and those below them, are columns, as all others follow from
            them. Empty: every setting in which the rows differ.
        all_metrics: Take every metric.
        baseline: What the others are compared with: number of a row from 1, id of a run, or ``SETTING=VALUE``; the first row by default.

        notes: What is to be said of the choice of the runs.

    Raises:
        RunError: No run is finished, no metric or no row is named like that.
    """
    said = list(notes)
    groups = _groups(list({run.id: run for run in runs}.values()), said)
    columns = tuple(c for c in _columns([g.settings for g in groups]) if not varied or _below(c, varied))
    records = [run for group in groups for run in group.runs.values()]
    chosen = tuple(_metrics(records, metrics, usual, all_metrics=all_metrics))
    base = 0 if baseline is None else _baseline(baseline, groups)
    warnings = comparability_warnings([list(g.runs.values()) for g in groups])
    said += provenance_notes(records)
    return Comparison(tuple(groups), columns, chosen, base, tuple(warnings), tuple(said))


def _groups(runs: Sequence[RunRecord], notes: list[str]) -> list[Group]:
    unfinished = [f"{run.id} ({run.status})" for run in runs if run.status != "finished"]
    if unfinished:
        notes.append(f"left out, not finished: {', '.join(unfinished)}")
    found: dict[str, dict[int, RunRecord]] = {}
    for run in runs:
        if run.status != "finished":
            continue
        group = found.setdefault(canonical(_settings(run)), {})
        other = group.get(run.seed)
        newest = run if other is None or run.started >= other.started else other
        group[run.seed] = newest
        if other is not None:
            left = other if newest is run else run
            differs = "" if left.metrics == newest.metrics else ", and its numbers are others"
            notes.append(f"left out: {left.id}, as {newest.id} is the same recipe with the same seed and newer{differs}")
    if not found:
        raise RunError(
            "none of the runs is finished" if runs else "there is no run to compare", hint="`mdp runs ls` shows them"
        )
    return [Group(group, _settings(next(iter(group.values())))) for group in found.values()]


def _settings(run: RunRecord) -> dict[str, Any]:
    """Returns what makes a run what it is, by dotted name, but for its seed."""
    tree = {name: section for name, section in run.resolved.items() if name not in ASIDE}
    images = {f"images.{role}": str(facts.get("fingerprint", ""))[:12] for role, facts in run.images.items()}
    return {**{dotted(path): _at(tree, path) for path in leaves(tree)}, **images}


def _at(tree: Any, path: Sequence[str]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def _columns(groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yields the settings that tell the groups apart.

    Where a section has another plugin (or is not there at all), its ``use`` says so, and the settings that just come with
    the plugin say nothing more; those of them that differ between groups of one plugin, or that two plugins share, do.
    """
    names = list(dict.fromkeys(name for group in groups for name in group))
    told = {
        section
        for name in names
        for section, _, last in [name.rpartition(".")]
        if last == "use" and len({group.get(name) for group in groups}) > 1
    }
    data = any(name.startswith("data.") and _differs(name, groups) for name in names)
    for name in names:
        section = next((s for s in told if name.startswith(f"{s}.")), None)
        if name.startswith("images.") and data:
            continue
        if _differs(name, [g for g in groups if name in g]) if section and name != f"{section}.use" else _differs(name, groups):
            yield name


def _below(name: str, varied: Sequence[str]) -> bool:
    return any(name == setting or name.startswith(f"{setting}.") for setting in varied)


def _differs(name: str, groups: Sequence[Mapping[str, Any]]) -> bool:
    return len({canonical(group[name]) if name in group else None for group in groups}) > 1


def _metrics(runs: Sequence[RunRecord], wanted: Sequence[str], usual: Sequence[str], *, all_metrics: bool) -> list[str]:
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    if all_metrics:
        return names
    priced = [*names, *dict.fromkeys(name for run in runs for name in costs(run.steps) if name not in names)]
    if not wanted:
        asked = dict.fromkeys(name for pattern in usual for name in _like(pattern, priced))
        if asked:
            return list(asked)
        return [n for n in names if n.endswith(".miou")] or [n for n in names if "/" not in n]
    found: list[str] = []
    for pattern in wanted:
        matching = _like(pattern, priced)
        if not matching:
            known = [*names, *(n.partition(".")[2] for n in names)]
            there = (
                f"there are: {', '.join(n for n in names if '/' not in n)}" if names else "the runs have none: `evaluate: []`?"
            )
            raise RunError(f"no metric {pattern!r}{did_you_mean(pattern, known)}", hint=there)
        found += [n for n in matching if n not in found]
    return found


def _like(pattern: str, names: Sequence[str]) -> list[str]:
    short = [n for n in names if fnmatch.fnmatchcase(n.partition(".")[2], pattern)]
    return [n for n in names if fnmatch.fnmatchcase(n, pattern)] or short


def _baseline(text: str, groups: Sequence[Group]) -> int:
    name, equals, value = text.partition("=")
    if text.isdigit() and len(text) < 4:  # longer ones may be the beginning or the end of a run's id
        found = [int(text) - 1] if 1 <= int(text) <= len(groups) else []
    elif equals:
        node = parse(value, "", [])
        setting = find_setting(name, groups)
        wanted = canonical(node.plain()) if node is not None else None
        found = [i for i, g in enumerate(groups) if setting in g.settings and canonical(g.settings[setting]) == wanted]
    else:
        found = [i for i, g in enumerate(groups) for run in g.runs.values() if run.id.startswith(text) or run.id.endswith(text)]
    if len(set(found)) == 1:
        return found[0]
    what = "more than one row is" if found else "no row is"
    raise RunError(
        f"--baseline {text}: {what} like that",
        hint=f"name a row, 1 to {len(groups)}, the id of a run, or a setting: SETTING=VALUE",
    )


def find_setting(name: str, groups: Sequence[Group]) -> str:
    """Returns the full name of a setting: ``refiner.threshold`` is ``pipeline.refiner.threshold``.

    Raises:
        RunError: No group has such a setting.
    """
    names = list(dict.fromkeys(n for g in groups for n in g.settings))
    for candidate in (name, f"pipeline.{name}"):
        if candidate in names:
            return candidate
    guess = did_you_mean(name, [*names, *(n.removeprefix("pipeline.") for n in names)])
    raise RunError(
        f"no setting {name!r} in these runs{guess}",
        hint=f"they differ in: {', '.join(_columns([g.settings for g in groups])) or 'nothing'}",
    )


def short_name(setting: str) -> str:
    """Returns a setting as people write it: without ``pipeline.``."""
    return setting.removeprefix("pipeline.")


@dataclass(frozen=True)
class Curve:
    """One line of a figure: a metric over a swept setting, the other settings fixed.

    Attributes:
        label: The settings that set the line apart; empty where there is one line.
        points: (value of the setting, metric over seeds), by value.
    """

    label: str
    points: tuple[tuple[float, Summary], ...] = field(default=())


def curves(comparison: Comparison, setting: str, metric: str) -> tuple[Curve, ...]:
    """Returns a metric over a numeric setting: one line for each combination of the other settings that differ.

    Raises:
        RunError: The setting is no number, has one value only, or no run has the metric.
    """
    name = find_setting(setting, comparison.groups)
    given = [g for g in comparison.groups if name in g.settings]
    values = [g.settings[name] for g in given]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        shown = ", ".join(dict.fromkeys(map(str, values)))
        raise RunError(f"{name} is not a number in all of these runs ({shown})", hint="a curve needs a number on its axis")
    if len(set(values)) < 2:
        raise RunError(f"{name} is {values[0]} in all of these runs: there is no curve to draw")
    others = [c for c in comparison.columns if c != name]
    lines: dict[str, list[tuple[float, Summary]]] = {}
    for group in given:
        summary = comparison.summary(group, metric)
        label = ", ".join(f"{short_name(c)} = {group.shown(c)}" for c in others)
        if summary is not None:
            lines.setdefault(label, []).append((float(group.settings[name]), summary))
    if not lines:
        raise RunError(f"none of the runs with {name} has the metric {metric}")
    return tuple(Curve(label, tuple(sorted(points, key=lambda p: p[0]))) for label, points in lines.items())
