"""``mdp data`` as a person uses it, on a small VOC and a small COCO."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typer.testing import CliRunner

from mdp_core.api import Context, ImageRecord, LabelMap
from mdp_core.cli import data
from mdp_core.cli.main import app
from mdp_core.plugins.loader import load_plugins

Call = Callable[..., Result]
SIZE = (40, 50)


@pytest.fixture
def mdp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls the command line in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(LabelMap(values.astype(np.uint8)).to_png())


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """Two images with objects: a ring, one that is mostly another class, a pixel; void everywhere; and one image without."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("2007_1\n2007_2\n2007_3\n")
    (lists / "rest.txt").write_text("2007_3\n")
    objects, classes = np.zeros((2, *SIZE)), np.zeros((2, *SIZE))
    objects[0, 4:30, 4:30], classes[0, 4:30, 4:30] = 1, 8
    objects[0, 12:22, 12:22], classes[0, 12:22, 12:22] = 0, 0
    objects[0, 32:38, 10:40], classes[0, 32:38, 10:40] = 2, 12
    classes[0, 32:38, 10:20] = 15
    objects[0, 0], classes[0, 0] = 255, 255
    objects[1, 20, 20], classes[1, 20, 20] = 5, 20
    for number in (1, 2):
        png(root / "SegmentationObject" / f"2007_{number}.png", objects[number - 1])
        png(root / "SegmentationClass" / f"2007_{number}.png", classes[number - 1])
    png(root / "SegmentationClass" / "2007_3.png", classes[0])
    (root / "JPEGImages").mkdir()
    Image.new("RGB", SIZE[::-1]).save(root / "JPEGImages/2007_1.jpg")  # the others are not there, nor needed
    return root.parent


def load(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_run_lengths_are_exact(mdp: Call, devkit: Path, tmp_path: Path) -> None:
    result = mdp("data", "voc-instances", "VOCdevkit", "-o", "objects.json")
    assert result.exit_code == 0, result.output
    assert "objects.json: 2 images, 3 objects of 3 classes, masks as rle" in result.output
    assert "left out, without SegmentationObject: 1 of 3 images" in result.output
    coco = load(tmp_path / "objects.json")
    assert {i["id"]: i["file_name"] for i in coco.imgs.values()} == {1: "2007_1.jpg", 2: "2007_2.jpg"}
    assert [
        (a["id"], a["image_id"], coco.cats[a["category_id"]]["name"], a["area"], a["bbox"]) for a in coco.anns.values()
    ] == [
        (1, 1, "cat", 576, [4, 4, 26, 26]),
        (2, 1, "dog", 180, [10, 32, 30, 6]),
        (3, 2, "tvmonitor", 1, [20, 20, 1, 1]),
    ]
    assert [(c["id"], c["name"]) for c in coco.cats.values()][::19] == [(1, "aeroplane"), (20, "tvmonitor")]
    painted = np.zeros(SIZE, np.uint8)
    for number in (1, 2):
        painted[coco.annToMask(coco.anns[number]) == 1] = number
    truth = LabelMap.from_png(devkit / "VOC2012/SegmentationObject/2007_1.png").values
    np.testing.assert_array_equal(painted, np.where(truth == 255, 0, truth))


def test_polygons_fill_holes_and_too_small_objects_keep_their_run_lengths(mdp: Call, devkit: Path, tmp_path: Path) -> None:
    result = mdp("data", "voc-instances", str(devkit / "VOC2012"), "-o", "objects.json", "--masks", "polygons")
    assert result.exit_code == 0, result.output
    assert "too small for a polygon, written as run lengths: 1 objects" in result.output
    coco = load(tmp_path / "objects.json")
    assert [len(a["segmentation"]) if isinstance(a["segmentation"], list) else "rle" for a in coco.anns.values()] == [
        2,
        1,
        "rle",
    ]
    ring = coco.anns[1]
    assert (ring["area"], ring["bbox"]) == (576, [4, 4, 26, 26])  # those of the mask, not of the polygon
    assert coco.annToMask(ring)[12:22, 12:22].all()
    assert coco.annToMask(coco.anns[3]).sum() == 1


@pytest.mark.parametrize("masks", ["rle", "polygons"])
def test_pycocotools_evaluates_it_and_finds_every_object(mdp: Call, devkit: Path, tmp_path: Path, masks: str) -> None:
    assert mdp("data", "voc-instances", str(devkit), "-o", "objects.json", "--masks", masks).exit_code == 0
    coco = load(tmp_path / "objects.json")
    with contextlib.redirect_stdout(io.StringIO()):
        found = coco.loadRes([{**a, "score": 0.9, "segmentation": coco.annToRLE(a)} for a in coco.anns.values()])
        evaluation = COCOeval(coco, found, "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_the_dataset_coco_reads_it(mdp: Call, devkit: Path, tmp_path: Path) -> None:
    assert mdp("data", "voc-instances", str(devkit), "-o", "objects.json").exit_code == 0
    settings = {"root": str(devkit / "VOC2012"), "eval": "val", "images": {"val": "JPEGImages"}}
    settings |= {"annotations": {"val": str(tmp_path / "objects.json")}, "train": "val"}
    host = load_plugins()
    coco = host.create("dataset", "coco", settings, Context())
    voc = host.create("dataset", "voc", {"root": str(devkit)}, Context())
    assert coco.class_names == voc.class_names
    for source in coco.sources("val"):
        ours = coco.instances(ImageRecord(source.id, *SIZE, str(source.path)))
        theirs = voc.instances(ImageRecord(source.id.removesuffix(".jpg"), *SIZE))
        np.testing.assert_array_equal(ours.to_masks(), theirs.to_masks())
        assert ours.labels.tolist() == theirs.labels.tolist()
        assert ours.boxes.tolist() == theirs.boxes.tolist()


def test_images_of_two_years_keep_their_folders(mdp: Call, devkit: Path, tmp_path: Path) -> None:
    old = devkit / "VOC2007"
    (old / "ImageSets/Segmentation").mkdir(parents=True)
    (old / "ImageSets/Segmentation/val.txt").write_text("000032\n")
    for kind in ("SegmentationObject", "SegmentationClass"):
        png(old / kind / "000032.png", np.ones(SIZE))
    assert mdp("data", "voc-instances", str(devkit), "-o", "a.json", "--split", "2007:val+trainval").exit_code == 0
    names = [image["file_name"] for image in json.loads((tmp_path / "a.json").read_text())["images"]]
    assert names == ["VOC2007/JPEGImages/000032.jpg", "VOC2012/JPEGImages/2007_1.jpg", "VOC2012/JPEGImages/2007_2.jpg"]


def test_the_same_command_writes_the_same_file(mdp: Call, devkit: Path, tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        assert mdp("data", "voc-instances", str(devkit), "-o", name).exit_code == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_progress_is_shown_to_those_who_wait(mdp: Call, devkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = mdp("data", "voc-instances", str(devkit), "-o", "a.json")
    assert "reading split" not in quick.output
    monkeypatch.setattr(data, "PATIENCE", -1.0)
    slow = mdp("data", "voc-instances", str(devkit), "-o", "a.json")
    assert "reading split trainval 1/3 images" in slow.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "-o", "a.json"], "nowhere: no such folder"),
        (["VOCdevkit", "-o", "a.json", "--split", "trainvla"], "did you mean 'trainval'?"),
        (["VOCdevkit", "-o", "a.json", "--split", "rest"], "none of the 1 images of split rest has objects"),
        (["VOCdevkit", "-o", "a.json", "--year", "2007"], "neither VOC2007/ImageSets/Segmentation"),
        (["VOCdevkit", "-o", "nowhere/a.json"], "no such folder, so a.json cannot be written there"),
        (["VOCdevkit", "-o", "VOCdevkit"], "is a folder"),
    ],
)
def test_errors_are_for_people(mdp: Call, devkit: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = mdp("data", "voc-instances", *arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert "→" in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.glob("*.json"))


def test_ground_truth_of_two_sizes(mdp: Call, devkit: Path) -> None:
    png(devkit / "VOC2012/SegmentationObject/2007_2.png", np.ones((9, 9)))
    result = mdp("data", "voc-instances", str(devkit), "-o", "a.json")
    assert result.exit_code == 1
    assert "2007_2.png: 9×9 px, but its image is 50×40" in result.output


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """Annotations of three images named as those of COCO 2014, one of them in COCO20k."""
    names = ("COCO_train2014_000000560992.jpg", "COCO_train2014_000000000001.jpg", "COCO_train2014_000000000002.jpg")
    square = {"category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]], "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
    content = {
        "info": {"year": 2014},
        "images": [{"id": n, "file_name": name, "height": 9, "width": 9} for n, name in enumerate(names, 1)],
        "annotations": [{"id": 10 * n, "image_id": n, **square} for n in (1, 2, 1)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    path = tmp_path / "instances_train2014.json"
    path.write_text(json.dumps(content))
    return path


def test_subset_by_a_file(mdp: Call, annotations: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("COCO_train2014_000000000001.jpg\ntrain2014/COCO_train2014_000000000002\n")
    result = mdp("data", "coco-subset", annotations.name, "list.txt", "-o", "part.json")
    assert result.exit_code == 0, result.output
    assert "part.json: 2 images, 1 objects of 1 classes" in result.output
    whole: dict[str, Any] = json.loads(annotations.read_text())
    part: dict[str, Any] = json.loads((tmp_path / "part.json").read_text())
    assert part == {**whole, "images": whole["images"][1:], "annotations": [whole["annotations"][1]]}


def test_subset_by_a_list_of_mdp(mdp: Call, annotations: Path, tmp_path: Path) -> None:
    result = mdp("data", "coco-subset", str(annotations), "coco20k", "-o", "part.json")
    assert result.exit_code == 1
    assert "subset coco20k: 19,816 of 19,817 images are not in" in result.output
    assert "--skip-missing" in result.output
    result = mdp("data", "coco-subset", str(annotations), "coco20k", "-o", "part.json", "--skip-missing")
    assert result.exit_code == 0, result.output
    assert [i["id"] for i in json.loads((tmp_path / "part.json").read_text())["images"]] == [1]


@pytest.mark.parametrize(
    ("file", "list_", "message"),
    [
        ("gone.json", "coco20k", "gone.json: no such file"),
        ("instances_train2014.json", "coco2k", "did you mean 'coco20k'?"),
        ("broken.json", "coco20k", "broken.json: is no JSON, or is cut off"),
    ],
)
def test_subset_errors_are_for_people(
    mdp: Call, annotations: Path, tmp_path: Path, file: str, list_: str, message: str
) -> None:
    (tmp_path / "broken.json").write_text(annotations.read_text()[:-30])
    result = mdp("data", "coco-subset", file, list_, "-o", "part.json")
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "part.json").exists()
