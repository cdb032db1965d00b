"""A comparison as a table: Markdown, CSV, JSON and LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mdp_core.engine.compare import ABSENT, Comparison, Difference, Group, Summary, is_share, short_name
from mdp_core.recipe.variations import text_of

Escape = Callable[[str], str]


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        header: Names of the columns.
        rows: As many texts each.
        numeric: How many of the last columns hold numbers.
        lines: What stands below the table.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: int
    lines: tuple[str, ...]


def as_table(comparison: Comparison) -> Table:
    """Returns the table that people read: shares in per cent, two decimals; other metrics with four significant digits."""
    differences = len(comparison.groups) > 1
    header = ["#", *map(short_name, comparison.columns), "seeds"]
    for metric in comparison.metrics:
        unit = " %" if is_share(metric) else ""
        header += [metric + unit, *([f"Δ {metric}{unit}"] if differences else [])]
    rows = []
    for number, group in enumerate(comparison.groups, 1):
        row = [str(number), *(group.shown(name) for name in comparison.columns), str(len(group.runs))]
        for metric in comparison.metrics:
            row.append(_cell(comparison.summary(group, metric), metric, len(group.runs)))
            if differences:
                row.append(_difference(comparison, group, metric))
        rows.append(tuple(row))
    numeric = 1 + len(comparison.metrics) * (1 + differences)
    return Table(tuple(header), tuple(rows), numeric, (*explanation(comparison), *comparison.notes))


def explanation(comparison: Comparison) -> list[str]:
    """Returns how the numbers are to be read."""
    lines = []
    if any(len(g.runs) > 1 for g in comparison.groups):
        lines.append("mean ± sample standard deviation over seeds; a single run has no ±")
    if len(comparison.groups) > 1 and comparison.metrics:
        text = f"Δ: mean of the differences to row {comparison.baseline + 1}, paired by seed"
        pairs = [comparison.difference(g, m) for g in comparison.groups for m in comparison.metrics]
        if any(pair is not None and pair.std is not None for pair in pairs):
            text += (
                ", ± their sample standard deviation, and in brackets the 95 % interval of the mean difference"
                " (Student's t, n - 1 degrees of freedom, not corrected for the number of comparisons)"
            )
        lines.append(text)
    return lines


def to_markdown(comparison: Comparison) -> str:
    """Returns the table in Markdown, with warnings and notes below it."""
    table = as_table(comparison)

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"

    rule = ["---"] * (len(table.header) - table.numeric) + ["---:"] * table.numeric
    lines = [line(table.header), line(rule), *map(line, table.rows), ""]
    below = [*(f"**Warning:** {w}" for w in comparison.warnings), *table.lines]
    return "\n".join([*lines, "  \n".join(below)]).rstrip("\n") + "\n"


def to_csv(comparison: Comparison) -> str:
    """Returns one line a row, full numbers (shares as shares): mean, std and n of each metric and of its differences."""
    parts = ("mean", "std", "n", "difference", "difference std", "difference n", "difference low", "difference high")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", *comparison.columns, "seeds", "runs", *(f"{m} {p}" for m in comparison.metrics for p in parts)])
    for number, group in enumerate(comparison.groups, 1):
        row: list[Any] = [number, *("" if c not in group.settings else text_of(group.settings[c]) for c in comparison.columns)]
        row += [" ".join(map(str, sorted(group.runs))), " ".join(run.id for run in group.runs.values())]
        for metric in comparison.metrics:
            own, pair = comparison.summary(group, metric), comparison.difference(group, metric)
            row += [own.mean, own.std, own.n] if own else ["", "", 0]
            row += [pair.mean, pair.std, pair.n, pair.low, pair.high] if pair else [""] * 5
        writer.writerow(row)
    return out.getvalue()


def to_json(comparison: Comparison) -> str:
    """Returns everything, the values of each seed too."""

    def summary(group: Group, metric: str) -> dict[str, Any]:
        own, pair = comparison.summary(group, metric), comparison.difference(group, metric)
        values = {str(seed): value for seed, value in group.values(metric).items()}
        return {**(asdict(own) if own else {}), "values": values, "difference": asdict(pair) if pair else None}

    rows = [
        {
            "settings": {c: group.settings[c] for c in comparison.columns if c in group.settings},
            "runs": {str(seed): run.id for seed, run in sorted(group.runs.items())},
            "metrics": {metric: summary(group, metric) for metric in comparison.metrics},
        }
        for group in comparison.groups
    ]
    content = {"columns": comparison.columns, "metrics": comparison.metrics, "baseline": comparison.baseline + 1, "rows": rows}
    more = {"explanation": explanation(comparison), "warnings": comparison.warnings, "notes": comparison.notes}
    return json.dumps({**content, **more}, indent=1, ensure_ascii=False) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$", '"': r"\textquotedbl{}",
    "±": r"$\pm$", "−": r"$-$", "Δ": r"$\Delta$", "—": "---", "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$", "…": r"\dots{}", "·": r"$\cdot$",
    "[": "{[}", "]": "{]}",
}  # fmt: skip


def latex_escaped(text: str) -> str:
    """Returns a text for LaTeX, pdflatex included. Brackets come in braces: a line break takes one after it for its argument."""
    return "".join(_LATEX.get(character, character) for character in text)


def to_latex(comparison: Comparison) -> str:
    """Returns a table for the package booktabs; warnings and notes as comments above it."""
    table = as_table(comparison)
    comments = [*(f"WARNING: {w}" for w in comparison.warnings), *table.lines]

    def line(cells: Sequence[str]) -> str:
        return "  " + " & ".join(map(latex_escaped, cells)) + r" \\"

    def row(cells: Sequence[str]) -> str:
        texts, numbers = cells[: -table.numeric], cells[-table.numeric :]
        return line([*texts, *(number.replace("-", "−") for number in numbers)])

    columns = "l" * (len(table.header) - table.numeric) + "r" * table.numeric
    lines = [
        *(f"% {' '.join(c.split())}" for c in comments),
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{columns}}}",
    ]
    lines += [r"  \toprule", line(table.header), r"  \midrule", *map(row, table.rows), r"  \bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _number(value: float, metric: str, *, sign: bool = False) -> str:
    plus = "+" if sign else ""
    return f"{100 * value:{plus}.2f}" if is_share(metric) else f"{value:{plus}.4g}"


def _cell(summary: Summary | None, metric: str, runs: int) -> str:
    if summary is None:
        return ABSENT
    text = _number(summary.mean, metric) + ("" if summary.std is None else f" ± {_number(summary.std, metric)}")
    return text if summary.n == runs else f"{text} (n={summary.n})"


def _difference(comparison: Comparison, group: Group, metric: str) -> str:
    pair: Difference | None = comparison.difference(group, metric)
    if pair is None:
        return "baseline" if group is comparison.groups[comparison.baseline] else ABSENT
    text = _number(pair.mean, metric, sign=True)
    if pair.std is not None and pair.low is not None and pair.high is not None:
        low, high = (_number(end, metric, sign=True) for end in (pair.low, pair.high))
        text += f" ± {_number(pair.std, metric)} [{low}, {high}]"
    return text if pair.n == len(group.runs) else f"{text} (n={pair.n})"
