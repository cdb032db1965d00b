"""Tables of scores as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table with aligned columns, the first to the left and the others to the right."""
    cells = [[_cell(text) for text in line] for line in (header, *lines)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [
        [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))]
        for line in cells
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in (aligned[0], rule, *aligned[1:]))


def to_csv(lines: Iterable[Sequence[str]]) -> str:
    """Returns lines as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()


def percent(share: float | None) -> str:
    """Returns a share in percent for people; – = there is none."""
    return "–" if share is None else f"{100 * share:.1f}"


def exact(share: float | None) -> str:
    """Returns a share in percent for programs; empty = there is none."""
    return "" if share is None else f"{100 * share:.4f}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
