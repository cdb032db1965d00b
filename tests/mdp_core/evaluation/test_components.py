import csv
import io

import numpy as np
import pytest

from mdp_core.data.label_map import LabelMap
from mdp_core.evaluation.components import ComponentRow, ComponentTable
from mdp_core.evaluation.confusion import Confusion
from mdp_core.evaluation.matching import Matching, identity, majority
from mdp_core.evaluation.semantic import evaluate

NAMES = ("background", "a | b", "absent")


def result(wrong, **options):
    truth = np.array([[0] * 50 + [1] * 50], np.uint8)
    prediction = truth.copy()
    prediction[0, 50 : 50 + wrong] = 0
    confusion = Confusion(2, 3)
    confusion.add("i", LabelMap(prediction), LabelMap(truth))
    return evaluate(confusion, NAMES, split="val", seed=3, **options)


def table(**options):
    return ComponentTable((ComponentRow("prior + clusterer", result(25)), ComponentRow("segmenter", result(0, **options))))


def test_markdown():
    text = table().to_markdown()
    lines = text.splitlines()
    words = [" ".join(line.split()) for line in lines]
    assert " ".join(lines[0].split()) == "| Component | mIoU (%) | Pixel accuracy (%) | Images |"
    assert " ".join(lines[2].split()) == "| prior + clusterer | 58.3 | 75.0 | 1 |"  # (50/75 + 25/50) / 2
    assert " ".join(lines[3].split()) == "| segmenter | 100.0 | 100.0 | 1 |"
    assert "| a \\| b | 50.0 | 100.0 |" in words
    assert "| absent | – | – |" in words
    assert "| **mean** | **58.3** | **100.0** |" in words
    assert "| mean, absent classes as 0 | 38.9 | 66.7 |" in words  # as the authors' code counts
    tables = [line for line in lines if line.startswith("|")]
    assert len({len(line) for line in tables[:4]}) == 1


def test_one_note_where_all_rows_share_a_protocol():
    (note,) = table().notes()
    for part in (
        "Protocol: 1 image of split val",
        "(hungarian, pixels, split val)",
        "Background is a class like any other",
        "No dense CRF",
    ):
        assert part in note
    assert "Ground truth was used for: matching clusters with classes (split val); scoring (split val)." in note
    assert "Checkpoint: last. Seed: 3." in note


def test_a_note_for_each_protocol():
    notes = table(dense_crf=True, labels_used=("segmenter: its stop",)).notes()
    assert len(notes) == 2
    assert notes[0].startswith("prior + clusterer: ")
    assert notes[1].startswith("segmenter: ")
    assert "A dense CRF refined the predictions." in notes[1]
    assert "segmenter: its stop; matching" in notes[1]


def test_csv():
    rows = list(csv.DictReader(io.StringIO(table().to_csv())))
    assert [row["component"] for row in rows] == ["prior + clusterer", "segmenter"]
    assert float(rows[0]["miou_percent"]) == pytest.approx(58.3333, abs=1e-4)
    assert rows[0]["pixel_accuracy_percent"] == "75.0000"
    assert rows[0]["matching"] == "hungarian, pixels, split val"
    assert (rows[0]["dense_crf"], rows[0]["checkpoint"], rows[0]["seed"]) == ("no", "last", "3")
    assert "scoring (split val)" in rows[0]["ground_truth"]


def test_per_class_csv():
    rows = list(csv.DictReader(io.StringIO(table().per_class_to_csv())))
    assert [row["class"] for row in rows] == list(NAMES)
    assert [row["segmenter"] for row in rows] == ["100.0000", "100.0000", ""]
    assert rows[1]["prior + clusterer"] == "50.0000"


def side_by_side():
    """Two stages under three protocols, a CRF on the second one, and a probe."""
    objects = Matching((0, 1, 1), 3, (0, 5, 2), unit="objects", split="train")
    confusion = Confusion(2, 3)
    confusion.add("i", LabelMap(np.array([[0, 0, 1, 2]], np.uint8)), LabelMap(np.array([[0, 0, 1, 1]], np.uint8)))
    of = lambda **options: evaluate(confusion, NAMES, split="val", seed=3, **options)  # noqa: E731
    rows = []
    for title, crf in (("segmenter", False), ("segmenter + crf", True)):
        rows += [
            ComponentRow(title, of(dense_crf=crf)),
            ComponentRow(title, of(dense_crf=crf, matching=majority(confusion)), "clustering-majority"),
            ComponentRow(title, of(dense_crf=crf, matching=objects), "clustering-objects"),
        ]
    used = ("probe: it learns from the class maps",)
    rows.append(ComponentRow("linear probe", of(matching=identity(confusion), labels_used=used), "probe"))
    return ComponentTable(tuple(rows))


def test_protocols_stand_side_by_side():
    table = side_by_side()
    lines = [" ".join(line.split()) for line in table.to_markdown().splitlines()]
    assert lines[0] == (
        "| Component | mIoU, matched on pixels (%) | mIoU, matched on objects (%) | mIoU, majority (%) | mIoU, probe (%) "
        "| Pixel accuracy (%) | Dense CRF | Images |"
    )
    assert lines[2] == "| segmenter | 75.0 | 100.0 | 100.0 | | 75.0 | no | 1 |"
    assert lines[3] == "| segmenter + crf | 75.0 | 100.0 | 100.0 | | 75.0 | yes | 1 |"
    assert lines[4] == "| linear probe | | | | 75.0 | 75.0 | no | 1 |"
    assert len(table.lines()) == 3
    assert "| Class | segmenter (matched on pixels) | segmenter (matched on objects) | segmenter (majority) |" in lines[10]


def test_each_protocol_has_its_note():
    notes = side_by_side().notes()
    assert len(notes) == 7
    assert "one to one, for each row by itself (hungarian, pixels, split val)" in notes[0]
    assert notes[1].startswith("mIoU, matched on objects: segmenter: 1 image of split val")
    assert "one to one, once, for all rows (hungarian, objects, split train)" in notes[1]
    assert "matching clusters with classes (split train); scoring (split val)" in notes[1]
    assert "several clusters may share a class" in notes[2]
    assert "A dense CRF refined" in notes[4]
    assert "which a probe learned from ground truth: nothing was matched" in notes[6]
    assert "Ground truth was used for: probe: it learns from the class maps; scoring (split val)." in notes[6]


def test_csv_has_a_line_for_each_stage_and_protocol():
    rows = list(csv.DictReader(io.StringIO(side_by_side().to_csv())))
    assert [(r["component"], r["protocol"]) for r in rows[:3]] == [
        ("segmenter", name) for name in ("clustering", "clustering-objects", "clustering-majority")
    ]
    assert [r["matching_split"] for r in rows] == ["val", "train", "val", "val", "train", "val", ""]
    assert rows[0]["miou_absent_zero_percent"] == "50.0000"
    classes = list(csv.DictReader(io.StringIO(side_by_side().per_class_to_csv())))
    assert classes[1]["segmenter (majority)"] == "100.0000"
    assert classes[1]["linear probe (probe)"] == "50.0000"


def test_equal_titles_of_one_protocol_stay_apart():
    table = ComponentTable((ComponentRow("segmenter", result(25)), ComponentRow("segmenter", result(0))))
    assert [line["clustering"].result.miou for line in table.lines()] == [pytest.approx(7 / 12), 1.0]


def test_a_protocol_that_is_not_known_gets_a_column():
    table = ComponentTable((ComponentRow("a", result(0)), ComponentRow("a", result(25), "mine")))
    assert "| mIoU, mine (%)" in table.to_markdown().splitlines()[0]


def test_checkpoints_chosen_on_labels_and_images_without_truth_are_named():
    chosen = ComponentTable((ComponentRow("s", result(0, checkpoint="best-on-labels")), ComponentRow("t", result(0))))
    lines = [" ".join(line.split()) for line in chosen.to_markdown().splitlines()]
    assert lines[0] == "| Component | mIoU (%) | Pixel accuracy (%) | Checkpoint | Images |"
    assert lines[2:4] == ["| s | 100.0 | 100.0 | best-on-labels | 1 |", "| t | 100.0 | 100.0 | last | 1 |"]
    note = chosen.notes()[0]
    assert "Checkpoint: best-on-labels (chosen by its score on the ground truth of split val)." in note
    assert "choosing the checkpoint (split val); scoring (split val)" in note
    confusion = Confusion(2, 3)
    confusion.add("i", LabelMap.background(2, 2), LabelMap.background(2, 2))
    confusion.add("j", LabelMap.background(2, 2), None)
    (note,) = ComponentTable((ComponentRow("s", evaluate(confusion, NAMES, split="val", seed=3)),)).notes()
    assert "1 image of split val (1 more without ground truth are left out)" in note


def test_rows_must_share_their_classes():
    with pytest.raises(ValueError, match="same classes"):
        ComponentTable(())
