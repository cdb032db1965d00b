import csv
import io

import numpy as np
import pytest

from mdp_core.data.label_map import LabelMap
from mdp_core.evaluation.components import ComponentRow, ComponentTable
from mdp_core.evaluation.confusion import Confusion
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
    assert " ".join(lines[0].split()) == "| Component | mIoU (%) | Pixel accuracy (%) | Images |"
    assert " ".join(lines[2].split()) == "| prior + clusterer | 58.3 | 75.0 | 1 |"  # (50/75 + 25/50) / 2
    assert " ".join(lines[3].split()) == "| segmenter | 100.0 | 100.0 | 1 |"
    assert "| a \\| b     |              50.0 |     100.0 |" in text
    assert "| absent     |                 – |         – |" in text
    assert "| **mean**   |          **58.3** | **100.0** |" in text
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


def test_rows_must_share_their_classes():
    with pytest.raises(ValueError, match="same classes"):
        ComponentTable(())
