import csv
import io

import numpy as np
import pytest

from mdp_core.data.instances import Instances
from mdp_core.evaluation.instance_table import InstanceRow, InstanceTable
from mdp_core.evaluation.instances import InstanceEvaluation

NAMES = ("background", "a | b", "c")


def result(*, labels=(0, 1), miss=True, names=NAMES):
    """Two objects in one image, one found; a second image without a detection where ``miss``."""
    masks = np.zeros((2, 6, 6), bool)
    masks[0, :2], masks[1, 4:] = True, True
    truth = Instances.from_masks(masks, labels=[0, 1])
    found = Instances.from_masks(masks, scores=[0.9, 0.8], labels=labels)
    evaluation = InstanceEvaluation(names, 2)
    evaluation.add("a", found, truth)
    if miss:
        evaluation.add("b", Instances.empty(6, 6), truth.select([1]))
    return evaluation.result(split="val", seed=3, labels_used=["detector: its stop"])


def table(**options):
    return InstanceTable((InstanceRow("prior", result(labels=(-1, -1))), InstanceRow("prior + clusterer", result(**options))))


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_markdown_has_a_table_a_setting():
    blocks = table().to_markdown().split("\n\n")
    heads = [block for block in blocks if block.startswith("**")]
    assert heads == [
        "**Multi-object, class-agnostic**",
        "**Multi-object, class-aware**",
        "**Single-object, class-agnostic**",
        "**Single-object, class-aware**",
        "**Single-object, misses counted, class-agnostic**",
        "**Single-object, misses counted, class-aware**",
    ]
    agnostic = blocks[blocks.index(heads[0]) + 1].splitlines()
    assert cells(agnostic[0]) == [
        "Stage",
        "AP50",
        "AP",
        "AP75",
        "Box AP50",
        "Box AP",
        "AR100",
        "Images",
        "Detections",
        "Objects",
    ]
    # two of three objects, precision 1 up to recall 2/3: 67 of 101 recalls
    assert cells(agnostic[2]) == ["prior", *["66.3"] * 5, "66.7", "2", "2", "3"]
    assert cells(agnostic[3])[0] == "prior + clusterer"
    aware = blocks[blocks.index(heads[1]) + 1].splitlines()
    assert [cells(line)[0] for line in aware[2:]] == ["prior + clusterer"]  # nothing of the prior is clustered
    assert cells(aware[2])[1] == "75.2"  # 1 of 1, and 51 of 101 recalls


def test_strict_is_shown_where_an_image_has_no_detection():
    assert not any(
        name.startswith("single_strict") for name in InstanceTable((InstanceRow("prior", result(miss=False)),)).settings
    )


def test_notes_say_how_it_was_measured():
    _, single, prior, clustered = table().notes()
    assert single.startswith("Single-object: in each image with a detection, the one of highest score")
    assert prior.startswith(
        "prior: 2 images of split val, 0 of them without a true object, 1 with one and without a detection. Nothing"
    )
    assert "matching" not in prior
    for part in (
        "prior + clusterer: 2 images of split val",
        "2 of 2 clusters stand for a class",
        "2 of the 2 masks",
        "Ground truth was used for: detector: its stop; matching clusters with classes (hungarian",
        "scoring (split val). Seed: 3.",
    ):
        assert part in clustered
    assert "Masks without a cluster: 1." in table(labels=(0, -1)).notes()[-1]


def test_csv_has_a_line_a_stage_and_setting():
    rows = list(csv.DictReader(io.StringIO(table().to_csv())))
    assert len(rows) == 3 + 6
    (row,) = [row for row in rows if (row["stage"], row["setting"]) == ("prior + clusterer", "multi.aware")]
    assert row["ap50_percent"] == "75.2475"
    assert (row["images"], row["detections"], row["objects"], row["undetected_images"]) == ("2", "2", "3", "1")
    assert (row["clusters"], row["matched_clusters"], row["split"], row["seed"]) == ("2", "2", "val", "3")
    assert row["ground_truth"].endswith("scoring (split val)")


def test_rows_must_share_their_classes():
    with pytest.raises(ValueError, match="same classes"):
        InstanceTable(())
    with pytest.raises(ValueError, match="same classes"):
        InstanceTable((InstanceRow("a", result()), InstanceRow("b", result(names=("background", "x", "y")))))
