"""The instance table of a run (after paper, Table 3): the AP of each stage's masks, a table a setting."""

from __future__ import annotations

from dataclasses import dataclass

from mdp_core.evaluation.grid import exact, markdown, percent, to_csv
from mdp_core.evaluation.instance_result import NUMBERS, SETTINGS, InstanceResult

TITLES = {"ap50": "AP50", "ap": "AP", "ap75": "AP75", "box_ap50": "Box AP50", "box_ap": "Box AP", "ar100": "AR100"}
"""Scores as the table calls them; all but those of boxes are of masks."""


@dataclass(frozen=True)
class InstanceRow:
    """One row: a stage's title, for example ``"prior + clusterer"``, and its scores."""

    title: str
    result: InstanceResult


@dataclass(frozen=True)
class InstanceTable:
    """The rows in the pipeline's order; all share one list of classes.

    Raises:
        ValueError: There is no row, or the classes differ.
    """

    rows: tuple[InstanceRow, ...]

    def __post_init__(self) -> None:
        if len({row.result.class_names for row in self.rows}) != 1:
            raise ValueError("an instance table has one row or more, all of the same classes")

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of the settings that the Markdown shows: single_strict only where it differs, for some image has no detection."""
        strict = any(row.result.undetected for row in self.rows)
        there = {name for row in self.rows for name in row.result.settings if strict or not name.startswith("single_strict")}
        return tuple(name for name in SETTINGS if name in there)

    def to_markdown(self) -> str:
        """Returns a table a setting, and the notes on how they were measured; scores in percent."""
        parts = [part for name in self.settings for part in (f"**{SETTINGS[name].capitalize()}**", self._grid(name))]
        return "\n\n".join([*parts, *self.notes()]) + "\n"

    def notes(self) -> list[str]:
        """Returns how the rows were measured, in sentences: one note about AP, one for each row."""
        rule = (
            "AP as COCO defines it, in percent: mean over the IoUs 0.50 to 0.95, over 101 recalls and over the classes that the ground truth "
            "has; at most 100 detections an image and class. AP, AP50, AP75 and AR100 are of masks. Regions marked as crowds are neither "
            "right nor wrong. Class-agnostic: classes are disregarded."
        )
        single = "; ".join(dict.fromkeys(row.result.protocol.single for row in self.rows))
        return [rule, f"Single-object: {single}.", *(_note(row) for row in self.rows)]

    def to_csv(self) -> str:
        """Returns the scores and the protocol as CSV, one line a stage and setting; scores in percent, empty = there is none."""
        header = ["stage", "setting", *(f"{number}_percent" for number in NUMBERS), "images", "detections", "objects"]
        header += ["clusters", "matched_clusters", "undetected_images", "split", "matching", "ground_truth", "seed"]
        return to_csv([header, *(_csv_row(row, name) for row in self.rows for name in SETTINGS if name in row.result.settings)])

    def _grid(self, setting: str) -> str:
        lines = []
        for row in self.rows:
            scores = row.result.settings.get(setting)
            if scores is not None:
                shares = [percent(getattr(scores, number)) for number in NUMBERS]
                lines.append([row.title, *shares, str(scores.images), str(scores.detections), str(scores.objects)])
        return markdown(["Stage", *(TITLES[number] for number in NUMBERS), "Images", "Detections", "Objects"], lines)


def _note(row: InstanceRow) -> str:
    result, protocol = row.result, row.result.protocol
    matched = sum(index is not None for index in result.class_of_cluster)
    clusters = (
        "Nothing is clustered: there are no class-aware scores."
        if protocol.matching == "none"
        else f"Clusters were matched with classes ({protocol.matching}): {matched} of {len(result.class_of_cluster)} clusters stand for a "
        f"class, the masks of the others have no part in class-aware scores; {result.agreeing} of the {result.evidence} masks that "
        "are right when classes are disregarded have the class of their object."
    )
    unclustered = (
        f" Masks without a cluster: {result.unclustered}." if result.unclustered and protocol.matching != "none" else ""
    )
    return (
        f"{row.title}: {_images(protocol.images)} of split {protocol.split}, {result.objectless} of them without a true object, "
        f"{result.undetected} with one and without a detection. {clusters}{unclustered} "
        f"Ground truth was used for: {'; '.join(protocol.ground_truth)}. Seed: {protocol.seed}."
    )


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def _csv_row(row: InstanceRow, setting: str) -> list[str]:
    result, protocol, scores = row.result, row.result.protocol, row.result.settings[setting]
    return [
        row.title,
        setting,
        *(exact(getattr(scores, number)) for number in NUMBERS),
        str(scores.images),
        str(scores.detections),
        str(scores.objects),
        str(len(result.class_of_cluster)),
        str(sum(index is not None for index in result.class_of_cluster)),
        str(result.undetected),
        protocol.split,
        protocol.matching,
        "; ".join(protocol.ground_truth),
        str(protocol.seed),
    ]
