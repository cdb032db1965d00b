"""The component table of a run (after paper, Table 1): each stage that can be read as label maps, with its scores under each protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from mdp_core.evaluation.grid import exact, markdown, percent, to_csv
from mdp_core.evaluation.semantic import LAST, EvaluationProtocol, SemanticResult

COLUMNS: Mapping[str, str] = {
    "clustering": "matched on pixels",
    "clustering-objects": "matched on objects",
    "clustering-majority": "majority",
    "probe": "probe",
}
"""Names of the protocols, in the order of their columns, and how they are called in tables."""


@dataclass(frozen=True)
class ComponentRow:
    """The scores of one stage under one protocol.

    Attributes:
        title: The stage for people, for example ``"prior + clusterer"``. Rows of one title under several protocols share a line.
        result: Its scores.
        protocol_name: A key of ``COLUMNS``; other names get a column of their own.
    """

    title: str
    result: SemanticResult
    protocol_name: str = "clustering"

    @property
    def name(self) -> str:
        """The protocol as tables call it."""
        return COLUMNS.get(self.protocol_name, self.protocol_name)


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

    @property
    def protocols(self) -> tuple[str, ...]:
        """Names of the protocols that there are rows of, in the order of the columns."""
        there = dict.fromkeys(row.protocol_name for row in self.rows)
        return (*(name for name in COLUMNS if name in there), *(name for name in there if name not in COLUMNS))

    def lines(self) -> list[dict[str, ComponentRow]]:
        """Returns the lines of the table: protocol → row. Rows of one title share a line, unless they are of one protocol too."""
        merged: dict[str, list[dict[str, ComponentRow]]] = {}
        for row in self.rows:
            of_title = merged.setdefault(row.title, [])
            line = next((line for line in of_title if row.protocol_name not in line), None)
            if line is None:
                of_title.append(line := {})
            line[row.protocol_name] = row
        return list(chain.from_iterable(merged.values()))

    def to_markdown(self) -> str:
        """Returns the table of scores, the table of IoU per class and the notes on how they were measured, in percent."""
        parts = [
            self.scores_to_markdown(),
            "IoU per class (%); – = the ground truth has no pixel of this class, it is left out of the mean.",
            self.per_class_to_markdown(),
            "\n\n".join(self.notes()),
        ]
        return "\n\n".join(parts) + "\n"

    def scores_to_markdown(self) -> str:
        """Returns the table of scores: a line a stage, a column of mIoU a protocol.

        Where a dense CRF took part, or a checkpoint was chosen by its score, there is a column that says in which lines.
        """
        marks = {"Dense CRF": any(row.result.protocol.dense_crf for row in self.rows)}
        marks["Checkpoint"] = any(row.result.protocol.checkpoint != LAST for row in self.rows)
        shown = [name for name, needed in marks.items() if needed]
        several = len(self.protocols) > 1
        header = ["Component"]
        header += [f"mIoU, {COLUMNS.get(name, name)} (%)" for name in self.protocols] if several else ["mIoU (%)"]
        header += ["Pixel accuracy (%)", *shown, "Images"]
        table = markdown(header, [self._line(line, shown) for line in self.lines()])
        return f"{table}\n\nPixel accuracy is that of a line's first protocol from the left." if several else table

    def _line(self, line: Mapping[str, ComponentRow], marks: Sequence[str]) -> list[str]:
        of = [line.get(name) for name in self.protocols]
        first = next(row for row in of if row is not None)
        protocol = first.result.protocol
        marked = {"Dense CRF": "yes" if protocol.dense_crf else "no", "Checkpoint": protocol.checkpoint}
        mious = ["" if row is None else percent(row.result.miou) for row in of]
        marks = [marked[name] for name in marks]
        return [first.title, *mious, percent(first.result.pixel_accuracy), *marks, str(protocol.images)]

    def per_class_to_markdown(self) -> str:
        """Returns the table of IoU per class in percent, with the means: a column a row of the component table and protocol."""
        columns = self._columns()
        per_class = [[name, *(percent(iou) for iou in ious)] for name, ious in self._per_class()]
        mean = ["**mean**", *(f"**{percent(row.result.miou)}**" for row in columns)]
        lines = [*per_class, mean]
        if any(row.result.absent for row in columns):
            lines.append(["mean, absent classes as 0", *(percent(row.result.miou_absent_zero) for row in columns)])
        return markdown(["Class", *self._column_titles()], lines)

    def notes(self) -> list[str]:
        """Returns how the rows were measured, in sentences: one note for each protocol among them."""
        titles: dict[tuple[str, EvaluationProtocol], list[str]] = {}
        for row in self._columns():
            titles.setdefault((row.name, row.result.protocol), []).append(row.title)
        several = len(self.protocols) > 1
        return [
            _note(
                protocol, f"mIoU, {name}: {'; '.join(rows)}" if several else "; ".join(rows) if len(titles) > 1 else "Protocol"
            )
            for (name, protocol), rows in titles.items()
        ]

    def to_csv(self) -> str:
        """Returns the scores and the protocol as CSV, a line for each stage and protocol; scores in percent."""
        header = ["component", "miou_percent", "pixel_accuracy_percent", "images", "split", "matching", "ground_truth"]
        header += ["dense_crf", "checkpoint", "background_included", "seed"]
        header += ["protocol", "matching_split", "miou_absent_zero_percent", "images_without_truth"]
        return to_csv([header, *(_csv_row(row) for row in self._columns())])

    def per_class_to_csv(self) -> str:
        """Returns the IoU per class as CSV, in percent: one line a class, one column a stage and protocol; empty = class absent."""
        lines = [[name, *(exact(iou) for iou in ious)] for name, ious in self._per_class()]
        return to_csv([["class", *self._column_titles()], *lines])

    def _columns(self) -> list[ComponentRow]:
        """The rows in the order of the lines, and of the protocols within a line."""
        return [line[name] for line in self.lines() for name in self.protocols if name in line]

    def _column_titles(self) -> list[str]:
        several = len(self.protocols) > 1
        return [f"{row.title} ({row.name})" if several else row.title for row in self._columns()]

    def _per_class(self) -> list[tuple[str, list[float | None]]]:
        names = self.rows[0].result.class_names
        return [(name, [row.result.iou[index] for row in self._columns()]) for index, name in enumerate(names)]


def _note(protocol: EvaluationProtocol, title: str) -> str:
    images = f"{protocol.images} image{'' if protocol.images == 1 else 's'}"
    without = f" ({protocol.without_truth} more without ground truth are left out)" if protocol.without_truth else ""
    background = (
        "Background is a class like any other." if protocol.background_included else "Background is left out of the mean."
    )
    crf = "A dense CRF refined the predictions." if protocol.dense_crf else "No dense CRF."
    chosen = (
        "" if protocol.checkpoint.startswith(LAST) else f" (chosen by its score on the ground truth of split {protocol.split})"
    )
    return (
        f"{title}: {images} of split {protocol.split}{without}, pixels pooled over the split. {_matching(protocol)} "
        f"{background} Ground truth was used for: {'; '.join(protocol.ground_truth)}. "
        f"{crf} Checkpoint: {protocol.checkpoint}{chosen}. Seed: {protocol.seed}."
    )


def _matching(protocol: EvaluationProtocol) -> str:
    """Returns how labels became classes, and where, in a sentence or two."""
    if protocol.matching_rule == "identity":
        return "Labels are classes, which a probe learned from ground truth: nothing was matched."
    where = "once, for all rows" if protocol.matching_unit == "objects" else "for each row by itself"
    if protocol.matching_rule == "majority":
        return (
            f"Each cluster stands for the class that most of its {protocol.matching_unit} have, {where} ({protocol.matching}); "
            "several clusters may share a class, whose IoU is that of all of them together. More clusters make this easier: compare "
            "equal numbers of clusters only."
        )
    return (
        f"Clusters were matched with classes one to one, {where} ({protocol.matching}); a class without a cluster counts as 0."
    )


def _csv_row(row: ComponentRow) -> list[str]:
    result, protocol = row.result, row.result.protocol
    scores = [row.title, exact(result.miou), exact(result.pixel_accuracy), str(protocol.images), protocol.split]
    yes_no = {True: "yes", False: "no"}
    return [
        *scores,
        protocol.matching,
        "; ".join(protocol.ground_truth),
        yes_no[protocol.dense_crf],
        protocol.checkpoint,
        yes_no[protocol.background_included],
        str(protocol.seed),
        row.protocol_name,
        protocol.matching_split or "",
        exact(result.miou_absent_zero),
        str(protocol.without_truth),
    ]
