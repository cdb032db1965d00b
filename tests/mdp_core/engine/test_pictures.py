from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdp_core.data.images import ImageRecord, Images
from mdp_core.data.instances import Instances
from mdp_core.data.label_map import LabelMap
from mdp_core.engine.pictures import in_class_colours, write_pictures


def test_clusters_take_the_numbers_of_their_classes() -> None:
    prediction = LabelMap(np.array([[0, 1, 2, 3, 255]], np.uint8))
    shown = in_class_colours(prediction, (0, 3, None, 1)).values.tolist()
    assert shown == [[0, 3, 6, 1, 255]], (
        "cluster 3 is class 1, cluster 1 is class 3, cluster 2 has none: a number after the classes"
    )


@pytest.mark.parametrize("top", [5, 300])
def test_unmatched_clusters_keep_apart_from_the_classes(top: int) -> None:
    values = np.arange(top + 1, dtype=np.uint8 if top < 255 else np.uint16)[None]
    shown = in_class_colours(LabelMap(values), (0, 1)).values[0]
    assert shown[0] == 0
    assert shown[1] == 1
    assert (shown[2:] > 0).all()


def test_pictures_of_a_run_without_labels(tmp_path: Path) -> None:
    records = [ImageRecord(f"{i}", 30, 40) for i in range(3)]
    images = Images(records, lambda record: np.full((30, 40, 3), 90, np.uint8))
    mask = np.zeros((1, 30, 40), bool)
    mask[0, 5:20, 10:30] = True
    found = [Instances.from_masks(mask, labels=[i % 2]) for i in range(2)] + [Instances.empty(30, 40)]
    names = write_pictures(tmp_path, images, {"prior": found, "clusterer": found}, None, {})
    assert names == ["stages.png", "clusters.png"]
    for name in names:
        with Image.open(tmp_path / name) as picture:
            assert picture.size[0] > 300
            assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 5
