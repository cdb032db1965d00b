"""A table of the paper with the numbers of runs beside the published ones, mean and standard deviation over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mdp_core.engine.compare import Summary, summarise
from mdp_core.engine.keys import canonical
from mdp_core.engine.paper_comparability import reasons, sentence, weights_sentence
from mdp_core.engine.paper_scores import ScoredRun, StageScores
from mdp_core.engine.published import Column, PaperRow, Part, Published, PublishedTable
from mdp_core.engine.record import RunRecord
from mdp_core.errors import RunError

Place = tuple[str, str]
"""A column and a protocol: one number of a line."""


@dataclass(frozen=True)
class Measured:
    """One number of ours.

    Attributes:
        metric: Name of the metric.
        samples: Seed → the run and its scores.
        reasons: Why it cannot be compared with the paper's number; empty where it can.
    """

    metric: str
    samples: Mapping[int, tuple[ScoredRun, StageScores]]
    reasons: tuple[str, ...] = ()

    @property
    def values(self) -> dict[int, float]:
        """The metric by seed, a share in [0, 1]; seeds without it are left out."""
        found = {seed: scores.metrics.get(self.metric) for seed, (_, scores) in sorted(self.samples.items())}
        return {seed: value for seed, value in found.items() if value is not None}

    @property
    def summary(self) -> Summary | None:
        """Mean and sample standard deviation over seeds."""
        return summarise(list(self.values.values()))


@dataclass
class Line:
    """Numbers of ours that belong together: one row of the paper, with one choice of settings.

    Attributes:
        pattern: Of its longest chain of stages; identity: what that chain is made of.
        settings: The settings behind it.
        cells: The numbers.
        told: Those of the settings in which the lines of a row differ.
    """

    pattern: str
    identity: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    cells: dict[Place, Measured] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seeds(self) -> int:
        """How many seeds its numbers have at most."""
        return max((len(m.samples) for m in self.cells.values()), default=0)


@dataclass(frozen=True)
class FilledRow:
    """A row of the paper with the lines that runs fill."""

    part: Part
    row: PaperRow
    lines: tuple[Line, ...]

    def label(self) -> str:
        """Returns what sentences call it."""
        mark = (self.part.title or "").partition(")")[0] + ") " if (self.part.title or "").startswith("(") else ""
        return mark + self.row.label if self.row.label else "all rows"


@dataclass(frozen=True)
class PaperTable:
    """What ``mdp table`` shows.

    Attributes:
        name: Its name; table: its layout.
        rows: Its rows; a figure has one, with a line for each value of its setting.
        warnings: Why numbers cannot be compared with the paper's.
        lacks: What is missing, and how to add it.
        notes: What else a reader should know.
    """

    name: str
    table: PublishedTable
    rows: tuple[FilledRow, ...]
    warnings: tuple[str, ...]
    lacks: tuple[str, ...]
    notes: tuple[str, ...]

    def places(self) -> tuple[Place, ...]:
        """Returns the columns with the protocols that runs have there; the first protocol of a column that none has."""
        used = {place for row in self.rows for line in row.lines for place in line.cells}
        found = []
        for name, column in self.table.columns.items():
            there = [(name, p) for p in column.filled_by if (name, p) in used]
            found += there or [(name, column.filled_by[0])]
        return tuple(found)


def fill(name: str, published: Published, runs: Sequence[RunRecord], notes: Sequence[str] = ()) -> PaperTable:
    """Fills a table of the paper with the numbers of runs.

    Args:
        name: The table.
        published: What the paper published.
        runs: Finished runs with results.
        notes: What is to be said of the choice of the runs.

    Raises:
        RunError: No such table, or a run is not finished or has no results.
    """
    table = published.table(name)
    scored = [ScoredRun.read(_checked(run), published) for run in {run.id: run for run in runs}.values()]
    said = [f"published numbers: {table.source} of {published.paper}, in per cent", *table.notes, *notes]
    filler = _Filler(table, published, scored, said)
    rows = [filler.row(part, row) for part in table.layout for row in part.rows]
    said += dict.fromkeys(row.row.note for row in rows if row.row.note and (row.lines or not row.row.optional))
    protocols, warnings = _protocol_notes(rows), _warnings(rows)
    lacks = dict.fromkeys(text for row in rows if not row.row.optional for text in filler.lacks(row))
    return PaperTable(name, table, tuple(rows), tuple(warnings), tuple(lacks), (*protocols, *said))


def _checked(run: RunRecord) -> RunRecord:
    if run.status != "finished":
        raise RunError(f"{run.id} is not finished ({run.status})", hint="run the same recipe again: what is done is kept")
    if not any(run.results.get(part) for part in ("components", "instances", "instances-objects", "localisation")):
        raise RunError(
            f"{run.id} has no results: nothing was evaluated",
            hint="name protocols in its recipe, evaluate: [clustering], and a split with ground truth, data.eval",
        )
    return run


@dataclass
class _Filler:
    table: PublishedTable
    published: Published
    runs: Sequence[ScoredRun]
    notes: list[str]

    def row(self, part: Part, row: PaperRow) -> FilledRow:
        """Returns a row with everything that the runs have for it."""
        lines: list[Line] = []
        columns = [(name, row.pattern(name)) for name in self.table.columns]
        deepest = sorted(columns, key=lambda c: -len(self.published.behind(c[1])) if c[1] else 0)
        for name, pattern in deepest:
            if pattern is not None:
                self._add(lines, name, pattern, part)
        _tell_apart(lines)
        if self.table.sweep is not None:
            lines.sort(key=lambda line: _number(self.swept(line)))
        return FilledRow(part, row, tuple(lines))

    def swept(self, line: Line) -> Any:
        """Returns a line's value of the setting on a figure's axis."""
        return swept_value(self.table, line)

    def _add(self, lines: list[Line], name: str, pattern: str, part: Part) -> None:
        """Adds a column's numbers: to the lines whose stages go back to the same ones, else as new lines."""
        column = self.table.columns[name]
        metric = part.metric(column)
        for place, samples, identity in self._variants(name, pattern, metric):
            run, scores = next(iter(samples.values()))
            why = dict.fromkeys(w for r, s in samples.values() for w in self._reasons(r, s))
            settings = self._settings(run, scores.stage)
            if self.table.sweep is not None and _AXIS not in settings:
                continue
            fitting = self._fitting(lines, place, pattern, identity)
            if not fitting:
                fitting = [Line(pattern, identity)]
                lines += fitting
            for line in fitting:
                line.settings = {**settings, **line.settings}
                line.cells[place] = Measured(metric, samples, tuple(why))

    def _fitting(self, lines: Sequence[Line], place: Place, pattern: str, identity: tuple[str, ...]) -> list[Line]:
        """Returns the lines that go back to the same stages, as far as their patterns do; one alone where they part company."""
        own, found = self.published.behind(pattern), []
        for line in lines:
            other = self.published.behind(line.pattern)
            common = next((i for i, (a, b) in enumerate(zip(own, other, strict=False)) if a != b), min(len(own), len(other)))
            if place not in line.cells and line.identity[: common + 1] == identity[: common + 1]:
                if common < len(own):
                    return [line]
                found.append(line)
        return found

    def _run(self, scores: StageScores) -> ScoredRun:
        return next(run for run in self.runs if run.run is scores.run)

    def _reasons(self, run: ScoredRun, scores: StageScores) -> list[str]:
        if self.table.sweep is not None:  # figures print no numbers that one could compare with
            return []
        return list(reasons(run, scores, self.published.data[self.table.data], self.published.weights))

    def _settings(self, run: ScoredRun, stage: str) -> dict[str, Any]:
        found = run.settings(stage)
        if self.table.sweep is not None:
            for name in run.lineage.chain(stage):
                setting = f"{name}.{self.table.sweep.setting}"
                if setting in found and run.is_a(name, self.table.sweep.stage):
                    found[_AXIS] = found.pop(setting)
        return found

    def _variants(
        self, name: str, pattern: str, metric: str
    ) -> list[tuple[Place, dict[int, tuple[ScoredRun, StageScores]], tuple[str, ...]]]:
        """Returns a column's numbers by protocol and by what they are made of, each by seed."""
        column = self.table.columns[name]
        found: dict[tuple[Place, tuple[str, ...]], dict[int, tuple[ScoredRun, StageScores]]] = {}
        for run in self.runs:
            for scores in run.scores:
                fits = scores.result == column.result and scores.protocol in column.filled_by and metric in scores.metrics
                if fits and run.is_a(scores.stage, pattern):
                    identity = run.identity(scores.stage)
                    self._keep(found.setdefault(((name, scores.protocol), identity), {}), run, scores, metric)
        return [(place, samples, identity) for (place, identity), samples in found.items()]

    def _keep(
        self, samples: dict[int, tuple[ScoredRun, StageScores]], run: ScoredRun, scores: StageScores, metric: str
    ) -> None:
        """Keeps the newer of two runs with one seed, and says so where their numbers differ."""
        other = samples.get(run.run.seed)
        if other is None or run.run.started >= other[0].run.started:
            samples[run.run.seed] = (run, scores)
        if other is not None and other[1].metrics[metric] != scores.metrics[metric]:
            newer = samples[run.run.seed][0].run.id
            left = other[0].run.id if newer == run.run.id else run.run.id
            note = f"left out: {left}, as {newer} is newer and has the same settings and seed; their numbers differ"
            if note not in self.notes:
                self.notes.append(note)

    def lacks(self, filled: FilledRow) -> list[str]:
        """Returns what the runs lack for a row, in sentences."""
        found: dict[str, list[str]] = {}
        for name, column in self.table.columns.items():
            pattern = filled.row.pattern(name)
            if pattern is not None and not any(place[0] == name for line in filled.lines for place in line.cells):
                found.setdefault(self._lack(pattern, column), []).append(filled.part.metric(column))
        return [
            f"{filled.label() if filled.row.label else metrics[0]}: {text.replace(_METRICS, _listed(metrics))}"
            for text, metrics in found.items()
        ]

    def _lack(self, pattern: str, column: Column) -> str:
        missing = next((p for p in self.published.behind(pattern) if not any(run.has(p) for run in self.runs)), None)
        if missing is not None:
            return f"no run has {self.published.stages[missing].words}; add {self.published.stages[missing].add}"
        known = [s for run in self.runs for s in run.scores if s.result == column.result and run.is_a(s.stage, pattern)]
        if any(s.protocol in column.filled_by for s in known):
            if self.table.sweep is not None and not any(_AXIS in self._settings(self._run(s), s.stage) for s in known):
                return f"the stages behind it have no setting {self.table.sweep.setting}"
            return f"evaluated, but without {_METRICS}"
        wanted = "clustering" if column.result == "semantic" else column.result
        return f"{self.published.stages[pattern].words}: not evaluated with the protocol {wanted}; add it, evaluate: [{wanted}]"


_METRICS = "{metrics}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


_AXIS = " axis"


def swept_value(table: PublishedTable, line: Line) -> Any:
    """Returns a line's value of the setting on a figure's axis."""
    return line.settings.get(_AXIS)


def _tell_apart(lines: Sequence[Line]) -> None:
    """Notes in each line the settings in which it differs from the others, but for those that merely come with another plugin."""
    names = [n for n in dict.fromkeys(name for line in lines for name in line.settings) if n != _AXIS]
    differ = [n for n in names if len({canonical(line.settings[n]) for line in lines if n in line.settings}) > 1]
    for line in lines:
        line.told = {n: line.settings[n] for n in differ if n in line.settings}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("inf")


def _protocol_notes(rows: Sequence[FilledRow]) -> list[str]:
    """Returns how the numbers were measured: one note for each protocol among them, naming its rows."""
    said: dict[str, dict[str, None]] = {}
    behind: dict[tuple[str, str], tuple[ScoredRun, str]] = {}
    for row in rows:
        for line in row.lines:
            for (_, protocol), measured in line.cells.items():
                text = f"[{protocol}] {sentence([s for _, s in measured.samples.values()], measured.metric)}"
                said.setdefault(text, {})[row.label()] = None
                behind |= {(r.run.id, s.stage): (r, s.stage) for r, s in measured.samples.values()}
    notes = [f"{'; '.join(labels)}: {text}" for text, labels in said.items()]
    weights = weights_sentence(list(behind.values()))
    return [*notes, *([weights] if weights else [])]


def _warnings(rows: Sequence[FilledRow]) -> list[str]:
    """Returns why numbers cannot be compared with the paper's, each reason once, with its rows."""
    found: dict[str, dict[str, None]] = {}
    ours = [row for row in rows if row.lines]
    for row in ours:
        for line in row.lines:
            for (column, _), measured in line.cells.items():
                for reason in measured.reasons if column in row.row.published else ():
                    found.setdefault(reason, {})[row.label()] = None
    everywhere = {row.label() for row in ours if row.row.published}
    by_rows: dict[str, list[str]] = {}
    for reason, labels in found.items():
        named = "every row" if labels.keys() == everywhere and len(everywhere) > 1 else "; ".join(labels)
        by_rows.setdefault(named, []).append(reason)
    return [f"not comparable with the paper's numbers, {named}: {'; '.join(why)}" for named, why in by_rows.items()]
