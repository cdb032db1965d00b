"""The component table of a run (after paper, Table 1): each stage that can be read as label maps, with its scores."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mdp_core.evaluation.semantic import EvaluationProtocol, SemanticResult


@dataclass(frozen=True)
class ComponentRow:
    """One row: a stage's title, for example ``"prior + clusterer"``, and its scores."""

    title: str
    result: SemanticResult


@dataclass(frozen=True)
class ComponentTable:
    """The rows in the pipeline's order; all share one list of classes.

    Raises:
        ValueError: There is no row, or the classes differ.
    """

    rows: tuple[ComponentRow, ...]

    def __post_init__(self) -> None:
        if len({row.result.class_names for row in self.rows}) != 1:
            raise ValueError("a component table has one row or more, all of the same classes")

    def to_markdown(self) -> str:
        """Returns the table of scores, the table of IoU per class and the notes on how they were measured, in percent."""
        scores = [
            [row.title, _percent(row.result.miou), _percent(row.result.pixel_accuracy), str(row.result.protocol.images)]
            for row in self.rows
        ]
        per_class = [[name, *(_percent(iou) for iou in ious)] for name, ious in self._per_class()]
        mean = ["**mean**", *(f"**{_percent(row.result.miou)}**" for row in self.rows)]
        parts = [
            _grid(["Component", "mIoU (%)", "Pixel accuracy (%)", "Images"], scores),
            "IoU per class (%); – = the ground truth has no pixel of this class, it is left out of the mean.",
            _grid(["Class", *(row.title for row in self.rows)], [*per_class, mean]),
            "\n\n".join(self.notes()),
        ]
        return "\n\n".join(parts) + "\n"

    def notes(self) -> list[str]:
        """Returns how the rows were measured, in sentences: one note for each protocol among them."""
        titles: dict[EvaluationProtocol, list[str]] = {}
        for row in self.rows:
            titles.setdefault(row.result.protocol, []).append(row.title)
        several = len(titles) > 1
        return [_note(protocol, rows if several else None) for protocol, rows in titles.items()]

    def to_csv(self) -> str:
        """Returns the scores and the protocol of each row as CSV; scores in percent."""
        header = ["component", "miou_percent", "pixel_accuracy_percent", "images", "split", "matching", "ground_truth"]
        header += ["dense_crf", "checkpoint", "background_included", "seed"]
        return _csv([header, *(_csv_row(row) for row in self.rows)])

    def per_class_to_csv(self) -> str:
        """Returns the IoU per class as CSV, in percent: one line a class, one column a component; empty = class absent."""
        lines = [[name, *(_exact(iou) for iou in ious)] for name, ious in self._per_class()]
        return _csv([["class", *(row.title for row in self.rows)], *lines])

    def _per_class(self) -> list[tuple[str, list[float | None]]]:
        names = self.rows[0].result.class_names
        return [(name, [row.result.iou[index] for row in self.rows]) for index, name in enumerate(names)]


def _note(protocol: EvaluationProtocol, titles: Sequence[str] | None) -> str:
    images = f"{protocol.images} image{'' if protocol.images == 1 else 's'}"
    background = (
        "Background is a class like any other." if protocol.background_included else "Background is left out of the mean."
    )
    crf = "A dense CRF refined the predictions." if protocol.dense_crf else "No dense CRF."
    return (
        f"{'; '.join(titles) if titles else 'Protocol'}: {images} of split {protocol.split}, pixels pooled over the split. Clusters were "
        f"matched with classes one to one, for each row by itself ({protocol.matching}); a class without a cluster counts as 0. "
        f"{background} Ground truth was used for: {'; '.join(protocol.ground_truth)}. "
        f"{crf} Checkpoint: {protocol.checkpoint}. Seed: {protocol.seed}."
    )


def _csv_row(row: ComponentRow) -> list[str]:
    result, protocol = row.result, row.result.protocol
    scores = [row.title, _exact(result.miou), _exact(result.pixel_accuracy), str(protocol.images), protocol.split]
    yes_no = {True: "yes", False: "no"}
    return [
        *scores,
        protocol.matching,
        "; ".join(protocol.ground_truth),
        yes_no[protocol.dense_crf],
        protocol.checkpoint,
        yes_no[protocol.background_included],
        str(protocol.seed),
    ]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _exact(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.4f}"


def _grid(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    cells = [[_cell(text) for text in line] for line in (header, *lines)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [
        [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))]
        for line in cells
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in (aligned[0], rule, *aligned[1:]))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _csv(lines: Iterable[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()
