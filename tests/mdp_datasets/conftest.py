"""A small COCO, made anew for each test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

HEIGHT, WIDTH = 20, 30


class MiniCoco:
    """A folder in the layout of COCO 2017 with two training and three evaluation images; tests change ``content`` and ``save``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / "annotations" / "instances_val2017.json"
        for split, count in (("train2017", 2), ("val2017", 3)):
            (root / split).mkdir(parents=True)
            for number in range(1, count + 1):
                Image.new("RGB", (WIDTH, HEIGHT), (40 * number, 9, 9)).save(root / split / name(number))
        self.content: dict[str, Any] = {
            "info": {"images": 3},
            "images": [{"id": 10 * n, "file_name": name(n), "height": HEIGHT, "width": WIDTH} for n in (2, 1, 3)],
            "annotations": [
                rectangle(101, 10, 7, 2, 3, 20, 12),
                rectangle(102, 10, 3, 4, 5, 6, 6),  # smaller, and inside of the other
                {**runs(103, 10, 3, column=25), "iscrowd": 1},
                rectangle(104, 20, 7, 0, 0, 30, 20),
            ],
            "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        }

    def save(self, file: Path | None = None) -> Path:
        """Writes the annotations."""
        path = file or self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.content))
        return path


def name(number: int) -> str:
    """File name of an image."""
    return f"{number:012d}.jpg"


def rectangle(number: int, image: int, category: int, x: float, y: float, width: float, height: float) -> dict[str, Any]:
    """An annotation with one polygon."""
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": [corners],
        "bbox": [x, y, width, height],
        "area": width * height,
        "iscrowd": 0,
    }


def runs(number: int, image: int, category: int, column: int) -> dict[str, Any]:
    """An annotation with run lengths: all columns from ``column`` on."""
    before = column * HEIGHT
    segmentation = {"size": [HEIGHT, WIDTH], "counts": [before, HEIGHT * WIDTH - before]}
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": 0}


@pytest.fixture
def mini(tmp_path: Path) -> MiniCoco:
    """A small COCO whose annotations are saved."""
    coco = MiniCoco(tmp_path / "coco")
    coco.save()
    return coco
