"""A table of the paper for people: terminal, Markdown, CSV, JSON and LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mdp_core.engine.comparison_table import latex_escaped
from mdp_core.engine.paper_table import FilledRow, Line, Measured, PaperTable, Place, swept_value
from mdp_core.recipe.variations import text_of

NOTHING = "–"
"""What a table shows where there is no number."""
MARK = " *"
"""What stands behind a number of ours that cannot be compared with the paper's."""
_OURS = {
    "clustering-objects": "ours, matched on training objects",
    "clustering-majority": "ours, many to one",
    "instances-objects": "ours, matched on training objects",
}


@dataclass(frozen=True)
class Grid:
    """A table of texts.

    Attributes:
        title: What the table shows, and where it stands in the paper.
        header: Names of the columns.
        rows: As many texts each; a heading has one.
        texts: How many of the first columns hold texts; the others hold numbers.
        warnings, lines: What stands below it.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int
    warnings: tuple[str, ...]
    lines: tuple[str, ...]


def as_grid(table: PaperTable) -> Grid:
    """Returns the table that people read, in the paper's layout; numbers in per cent with one decimal, as in the paper."""
    header, rows, texts = _turned(table) if table.table.turned else _upright(table)
    below = [*(f"{NOTHING} {text}" for text in table.lacks), *_reading(table), *table.notes]
    title = f"{table.table.source}: {table.table.title}"
    return Grid(title, tuple(header), tuple(map(tuple, rows)), texts, table.warnings, tuple(below))


def _upright(table: PaperTable) -> tuple[list[str], list[list[str]], int]:
    places, figure = table.places(), table.table.sweep
    told = any(line.told for row in table.rows for line in row.lines)
    header = ["setup" if figure is None else figure.setting, *(["settings"] if told else [])]
    texts = len(header)
    columns = _columns(table, places)
    header += [heading for heading, _, _ in columns]
    rows: list[list[str]] = []
    part = None
    for row in table.rows:
        if row.part is not part and (row.part.title or part is not None):
            rows.append([row.part.title or ""])
        part = row.part
        for number, line in enumerate(row.lines or (None,)):
            label = _label(table, row, line) if number == 0 or figure is not None else ""
            cells = [_cell(row, line, column, place) for _, column, place in columns]
            rows.append([label, *([_settings(line)] if told else []), *cells, _seeds(line)])
    return [*header, "seeds"], rows, texts


def _columns(table: PaperTable, places: Sequence[Place]) -> list[tuple[str, str, Place | None]]:
    """Returns the columns with numbers: heading, the paper's column, and ours of it or None for the paper's number."""
    found: list[tuple[str, str, Place | None]] = []
    for name, column in table.table.columns.items():
        if any(name in row.row.published for row in table.rows):
            found.append((f"{column.title}, paper", name, None))
        for place in places:
            if place[0] == name:
                ours = _OURS.get(place[1], "ours")
                found.append((f"{column.title}, {ours}" if table.table.sweep is None else column.title + ours[4:], name, place))
    return found


def _turned(table: PaperTable) -> tuple[list[str], list[list[str]], int]:
    """A line a column of the paper and a column a row of it, for tables with many columns."""
    protocols = list(dict.fromkeys(protocol for _, protocol in table.places()))
    columns: list[tuple[str, FilledRow, Line | None, str | None]] = []
    for row in table.rows:
        columns.append((f"{row.label()}, paper", row, None, None))
        for line in row.lines:
            there = [p for p in protocols if any(protocol == p for _, protocol in line.cells)]
            settings = f" ({_settings(line)})" if line.told else ""
            columns += [(f"{row.label()}, {_OURS.get(p, 'ours')}{settings}", row, line, p) for p in there]
    rows = []
    for name, column in table.table.columns.items():
        cells = [_cell(row, line, name, None if p is None else (name, p)) for _, row, line, p in columns]
        rows.append([column.title, *cells])
    return ["", *(heading for heading, *_ in columns)], rows, 1


def _label(table: PaperTable, row: FilledRow, line: Line | None) -> str:
    if table.table.sweep is None:
        return row.row.label
    value = swept_value(table.table, line) if line is not None else None
    chosen = isinstance(value, int | float) and value == table.table.sweep.chosen
    return f"{NOTHING if value is None else text_of(value)}{' (the paper’s choice)' if chosen else ''}"


def _settings(line: Line | None) -> str:
    return ", ".join(f"{n} = {v if isinstance(v, str) else text_of(v)}" for n, v in line.told.items()) if line else ""


def _cell(row: FilledRow, line: Line | None, column: str, place: Place | None) -> str:
    if place is None:
        number = row.row.published.get(column)
        return NOTHING if number is None else f"{number:.1f}"
    measured = line.cells.get(place) if line is not None else None
    if measured is None or line is None or measured.summary is None:
        return NOTHING
    found = measured.summary
    text = f"{100 * found.mean:.1f}" + ("" if found.std is None else f" ± {100 * found.std:.1f}")
    text += "" if found.n == line.seeds else f" (n={found.n})"
    return text + (MARK if measured.reasons and column in row.row.published else "")


def _seeds(line: Line | None) -> str:
    return NOTHING if line is None else str(line.seeds)


def _reading(table: PaperTable) -> list[str]:
    """Returns how the numbers are to be read."""
    lines = []
    if any(line.seeds > 1 for row in table.rows for line in row.lines):
        lines.append("ours: mean ± sample standard deviation over seeds; a single run has no ±")
    if table.warnings:
        lines.append(f"{MARK.strip()} not comparable with the paper's number; the warnings say why")
    return lines


def to_markdown(table: PaperTable) -> str:
    """Returns the table in Markdown, with warnings and notes below it."""
    grid = as_grid(table)

    def line(cells: Sequence[str]) -> str:
        padded = [*cells, *[""] * (len(grid.header) - len(cells))]
        return "| " + " | ".join(c.replace("|", "\\|").replace(MARK, " \\*") for c in padded) + " |"

    rule = ["---"] * grid.texts + ["---:"] * (len(grid.header) - grid.texts)
    rows = [line([f"**{row[0]}**" if row[0] else ""] if len(row) == 1 else row) for row in grid.rows]
    below = [*(f"**Warning:** {w}" for w in grid.warnings), *(text.replace("*", "\\*") for text in grid.lines)]
    return (
        "\n".join([f"**{grid.title}**", "", line(grid.header), line(rule), *rows, "", "  \n".join(below)]).rstrip("\n") + "\n"
    )


def to_csv(table: PaperTable) -> str:
    """Returns one line a number: the paper's in per cent, ours with all digits, in per cent too."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ["part", "row", "column", "published", "source", "protocol", "settings", "mean", "std", "n", "seeds", "runs"]
    writer.writerow([*header, "not comparable because"])
    for record in _records(table):
        ours = record["ours"]
        first = [record["part"], record["row"], record["column"], record["published"], record["source"]]
        for one in ours or [None]:
            if one is None:
                writer.writerow([*first, *[""] * 4, 0, "", "", ""])
                continue
            settings = ", ".join(f"{n} = {v if isinstance(v, str) else text_of(v)}" for n, v in one["settings"].items())
            runs = " ".join(run["run"] for run in one["seeds"].values())
            numbers = [one["mean"], one["std"], one["n"], " ".join(one["seeds"]), runs]
            writer.writerow([*first, one["protocol"], settings, *numbers, "; ".join(one["not_comparable"])])
    return out.getvalue()


def to_json(table: PaperTable) -> str:
    """Returns everything, the values of each seed too, in per cent."""
    content = {"table": table.name, "title": table.table.title, "source": table.table.source, "numbers": _records(table)}
    more = {"warnings": table.warnings, "lacks": table.lacks, "notes": table.notes}
    return json.dumps({**content, **more}, indent=1, ensure_ascii=False) + "\n"


def _records(table: PaperTable) -> list[dict[str, Any]]:
    """Returns every number: the paper's with all of ours beside it."""
    found: list[dict[str, Any]] = []
    for row in table.rows:
        source = row.row.source or row.part.source or table.table.source
        for name, column in table.table.columns.items():
            number = row.row.published.get(name)
            ours = [_record(table, line, place, m) for line in row.lines for place, m in line.cells.items() if place[0] == name]
            if number is not None or ours or row.row.pattern(name):
                place = {"part": row.part.title, "row": row.row.label, "column": column.title}
                found.append({**place, "published": number, "source": None if number is None else source, "ours": ours})
    return found


def _record(table: PaperTable, line: Line, place: Place, measured: Measured) -> dict[str, Any]:
    summary = measured.summary
    seeds = {
        str(seed): {"run": measured.samples[seed][0].run.id, "stage": measured.samples[seed][1].stage, "value": 100 * value}
        for seed, value in measured.values.items()
    }
    axis = {table.table.sweep.setting: swept_value(table.table, line)} if table.table.sweep else {}
    return {
        "protocol": place[1],
        "metric": measured.metric,
        "settings": {**axis, **line.told},
        "mean": None if summary is None else 100 * summary.mean,
        "std": None if summary is None or summary.std is None else 100 * summary.std,
        "n": 0 if summary is None else summary.n,
        "seeds": seeds,
        "not_comparable": list(measured.reasons),
    }


def to_latex(table: PaperTable) -> str:
    """Returns a table for the package booktabs; warnings and notes as comments above it."""
    grid = as_grid(table)
    numbers = len(grid.header) - grid.texts

    def line(cells: Sequence[str]) -> str:
        return "  " + " & ".join(map(latex_escaped, cells)) + r" \\"

    def row(cells: Sequence[str]) -> str:
        if len(cells) > 1:
            return line([c.replace(NOTHING, "--").replace("’", "'") for c in cells])
        return rf"  \multicolumn{{{len(grid.header)}}}{{l}}{{{latex_escaped(cells[0])}}} \\" if cells[0] else r"  \midrule"

    comments = [grid.title, *(f"WARNING: {w}" for w in grid.warnings), *grid.lines]
    lines = [
        *(f"% {' '.join(c.split())}" for c in comments),
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{'l' * grid.texts}{'r' * numbers}}}",
        *(r"  \toprule", line(grid.header), r"  \midrule"),
        *map(row, grid.rows),
        *(r"  \bottomrule", r"\end{tabular}"),
    ]
    return "\n".join(lines) + "\n"
