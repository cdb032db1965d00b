from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pydantic import ValidationError

from mdp_core.api import Context, DataError, ImageRecord, Source
from mdp_datasets.coco import Coco
from mdp_datasets.coco_places import chosen
from mdp_datasets.settings import CocoConfig

SIZE = (20, 30)
FIRST, SECOND, THIRD = (f"{n:012d}.jpg" for n in (1, 2, 3))


def coco(root: Path, **settings: Any) -> Coco:
    return Coco(CocoConfig(root=root, **settings), Context())


def ids(dataset: Coco, split: str) -> list[str]:
    return [source.id for source in dataset.sources(split)]


def record(root: Path, name: str = FIRST, split: str = "val2017", size: tuple[int, int] = SIZE) -> ImageRecord:
    return ImageRecord(name, *size, str(root / split / name))


def test_images_by_name_with_the_annotations_as_truth(mini: Any) -> None:
    dataset = coco(mini.root)
    assert list(dataset.sources("val2017")) == [
        Source(id=name, path=mini.root / "val2017" / name, truth=(mini.file,)) for name in (FIRST, SECOND, THIRD)
    ]


def test_training_needs_no_annotations(mini: Any) -> None:
    (mini.root / "train2017" / "notes.txt").write_text("")
    sources = list(coco(mini.root).sources("train2017"))
    assert [(s.id, s.truth) for s in sources] == [(FIRST, ()), (SECOND, ())]
    assert coco(mini.root).instances(record(mini.root, split="train2017")) is None
    assert coco(mini.root).label_map(record(mini.root, split="train2017")) is None
    assert coco(mini.root).crowds(record(mini.root, split="train2017")) is None


def test_annotations_of_the_training_split_are_used_where_there_are_some(mini: Any) -> None:
    mini.content["images"] = mini.content["images"][:2]
    mini.content["annotations"] = mini.content["annotations"][:1]
    train = mini.save(mini.root / "annotations" / "instances_train2017.json")
    dataset = coco(mini.root)
    assert [s.truth for s in dataset.sources("train2017")] == [(train,)] * 2
    assert len(dataset.instances(record(mini.root, split="train2017")) or ()) == 1
    assert len(dataset.instances(record(mini.root, split="val2017")) or ()) == 2


def test_classes_in_the_order_of_their_numbers(mini: Any) -> None:
    assert coco(mini.root).class_names == ("background", "cat", "dog")
    assert coco(mini.root, eval=None).class_names == ()


def test_objects_crowds_and_boxes(mini: Any) -> None:
    dataset = coco(mini.root)
    objects, crowds, boxes = (f(record(mini.root)) for f in (dataset.instances, dataset.crowds, dataset.boxes))
    assert objects is not None
    assert crowds is not None
    assert boxes is not None
    assert objects.labels.tolist() == boxes.labels.tolist() == [1, 0]
    assert boxes.boxes.tolist() == [[2, 3, 22, 15], [4, 5, 10, 11]]
    assert [mask.sum() for mask in objects.to_masks()] == [240, 36]
    assert crowds.labels.tolist() == [0]
    assert crowds.to_masks()[0].sum(axis=0).tolist() == [0] * 25 + [20] * 5
    none = dataset.instances(record(mini.root, THIRD))
    assert none is not None
    assert (len(none), none.size) == (0, SIZE)


def test_smaller_objects_lie_over_larger_ones_and_crowds_are_ignored(mini: Any) -> None:
    mini.content["annotations"][0]["bbox"] = [0, 0, 1, 1]  # what counts is the mask
    mini.content["annotations"][0]["segmentation"][0][2] = mini.content["annotations"][0]["segmentation"][0][4] = 27
    mini.save()
    found = coco(mini.root).label_map(record(mini.root))
    assert found is not None
    expected = np.zeros(SIZE, np.uint8)
    expected[:, 25:] = 255
    expected[3:15, 2:27] = 2  # over the crowd too
    expected[5:11, 4:10] = 1
    np.testing.assert_array_equal(found.values, expected)
    empty = coco(mini.root).label_map(record(mini.root, THIRD))
    assert empty is not None
    assert not empty.values.any()


def test_many_classes_need_16_bits(mini: Any) -> None:
    mini.content["categories"] += [{"id": 100 + n, "name": f"kind {n}"} for n in range(300)]
    mini.content["annotations"][1]["category_id"] = 399
    mini.save()
    found = coco(mini.root).label_map(record(mini.root))
    assert found is not None
    assert found.values.dtype == np.uint16
    assert sorted(set(found.values.ravel().tolist())) == [0, 2, 302, 65535]


def test_a_box_is_that_of_the_mask_where_none_is_written(mini: Any) -> None:
    del mini.content["annotations"][0]["bbox"]
    mini.save()
    boxes = coco(mini.root).boxes(record(mini.root))
    assert boxes is not None
    assert boxes.boxes[0].tolist() == [2, 3, 22, 15]


def test_another_layout_by_settings(mini: Any, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (mini.root / "val2017").rename(photos)
    labels = mini.save(tmp_path / "labels.json")
    settings = {"images": {"a": "photos", "b": photos}, "annotations": {"b": "labels.json"}}
    dataset = coco(tmp_path, train="a", eval="b", **settings)
    assert ids(dataset, "a") == ids(dataset, "b") == [FIRST, SECOND, THIRD]
    assert next(iter(dataset.sources("b"))).truth == (labels,)
    found = dataset.instances(ImageRecord(FIRST, *SIZE, str(photos / FIRST)))
    assert found is not None
    assert len(found) == 2
    flat = coco(photos, train="all", eval=None, images={"all": "."})
    assert ids(flat, "all") == [FIRST, SECOND, THIRD]


def test_folders_below_images(mini: Any) -> None:
    (mini.root / "images").mkdir()
    (mini.root / "val2017").rename(mini.root / "images" / "val2017")
    assert next(iter(coco(mini.root).sources("val2017"))).path == mini.root / "images" / "val2017" / FIRST


def test_file_names_with_folders(mini: Any) -> None:
    (mini.root / "val2017" / "day").mkdir()
    (mini.root / "val2017" / FIRST).rename(mini.root / "val2017" / "day" / FIRST)
    mini.content["images"][1]["file_name"] = f"day/{FIRST}"
    mini.save()
    dataset = coco(mini.root)
    assert ids(dataset, "val2017")[-1] == f"day/{FIRST}"
    assert len(dataset.instances(record(mini.root, f"day/{FIRST}")) or ()) == 2


def test_subset_of_train_and_eval_but_not_of_support(mini: Any, tmp_path: Path) -> None:
    some = tmp_path / "some.txt"
    some.write_text(f"{SECOND}\nval2017/{FIRST}\n{SECOND}\n")
    dataset = coco(mini.root, support="more", images={"more": "train2017"}, subset=str(some))
    assert ids(dataset, "val2017") == [FIRST, SECOND]
    some.write_text(SECOND.removesuffix(".jpg"))
    assert ids(dataset, "train2017") == ids(dataset, "val2017") == [SECOND]
    assert ids(dataset, "more") == [FIRST, SECOND]
    only = coco(mini.root, subset={"train2017": str(some)})
    assert (len(ids(only, "train2017")), len(ids(only, "val2017"))) == (1, 3)


def test_listed_images_that_are_not_there(mini: Any, tmp_path: Path) -> None:
    some = tmp_path / "some.txt"
    some.write_text("\n".join([FIRST, *(f"nowhere{n}.jpg" for n in range(5))]))
    message = r"some\.txt: 5 of 6 images are not in .*instances_val2017\.json: nowhere0\.jpg, nowhere1\.jpg, nowhere2\.jpg, … \(5 in all\)"
    with pytest.raises(DataError, match=message):
        ids(coco(mini.root, subset=str(some)), "val2017")
    with pytest.raises(DataError, match=r"5 of 6 images are not in .*train2017"):
        ids(coco(mini.root, subset=str(some)), "train2017")
    assert ids(coco(mini.root, subset=str(some), missing="skip"), "val2017") == [FIRST]
    some.write_text("nowhere.jpg")
    with pytest.raises(DataError, match="1 of 1 images are not in"):
        ids(coco(mini.root, subset=str(some), missing="skip"), "val2017")
    with pytest.raises(DataError, match=r"did you mean 'coco20k'"):
        ids(coco(mini.root, subset="coco-20k"), "val2017")


def test_coco20k_by_the_names_of_both_years(mini: Any) -> None:
    for split, name in (("train2014", "COCO_train2014_000000560992.jpg"), ("train2017", "000000560992.jpg")):
        (mini.root / split).mkdir(exist_ok=True)
        (mini.root / split / name).write_bytes(b"")
        assert ids(coco(mini.root, train=split, subset={split: "coco20k"}, missing="skip"), split) == [name]


def test_how_lines_name_images() -> None:
    names = ["a/x.jpg", "x.jpg", "b/y.png"]
    assert chosen(["a/x.jpg"], names) == (["a/x.jpg"], [])
    assert chosen(["z/x.jpg"], names) == (["x.jpg"], [])
    assert chosen(["c/b/y", "y.png"], names) == (["b/y.png"], ["y.png"])
    assert chosen(["COCO_val2014_000000000001.jpg"], ["000000000001.jpg"]) == (["000000000001.jpg"], [])
    assert chosen([], names) == ([], [])


def _annotation(**changes: Any) -> Any:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0].update(changes)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_annotation(segmentation=None), "annotation 101 of image 10: no polygons and no run lengths"),
        (_annotation(segmentation=[["a"] * 8]), "no polygons and no run lengths"),
        (_annotation(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "annotation 101 .* odd number of coordinates"),
        (_annotation(segmentation=[[1, 2, 3, 4, 5, 1e9]]), "a polygon lies far outside of the image"),
        (_annotation(segmentation=[[1, 2, 3, 4, 5, float("nan")]]), "a polygon lies far outside of the image"),
        (_annotation(segmentation={"size": [20, 30], "counts": [1, 2]}), "its run lengths do not cover the image"),
        (_annotation(segmentation={"size": [20, 30], "counts": [-1, 601]}), "its run lengths do not cover the image"),
        (_annotation(segmentation={"size": [20, 30], "counts": "abc"}), "its run lengths do not cover the image"),
        (_annotation(segmentation={"size": [20, 30], "counts": "ü"}), "its run lengths do not cover the image"),
        (
            _annotation(segmentation={"size": [30, 20], "counts": [600]}),
            r"height and width \[30, 20\], the image of \[20, 30\]",
        ),
        (_annotation(segmentation={"size": [20, 30]}), "its mask is of"),
        (_annotation(bbox=[1, 2, 3]), "its box is not x, y, width, height"),
        (_annotation(bbox="all"), "its box is not"),
    ],
)
def test_annotations_that_are_no_masks(mini: Any, change: Any, message: str) -> None:
    change(mini.content)
    mini.save()
    with pytest.raises(DataError, match=message):
        coco(mini.root).instances(record(mini.root))


def test_a_polygon_of_two_points_covers_nothing(mini: Any) -> None:
    mini.content["annotations"][0]["segmentation"] = [[1, 1, 5, 5], []]
    mini.save()
    found = coco(mini.root).instances(record(mini.root))
    assert found is not None
    assert found.areas().tolist() == [0, 36]


def test_an_image_of_another_size_than_annotated(mini: Any) -> None:
    with pytest.raises(DataError, match=rf"{FIRST} is annotated at 30×20 px, the image is 20×30\n.*turned"):
        coco(mini.root).instances(record(mini.root, size=(30, 20)))


def test_categories_differ_between_splits(mini: Any) -> None:
    mini.content["categories"].append({"id": 50, "name": "cow"})
    mini.save(mini.root / "annotations" / "instances_train2017.json")
    dataset = coco(mini.root)
    assert len(dataset.instances(record(mini.root)) or ()) == 2
    with pytest.raises(DataError, match=r"train2017\.json: its categories are not those of the split that is evaluated\n.*cow"):
        dataset.instances(record(mini.root, split="train2017"))


@pytest.mark.parametrize(
    ("settings", "split", "message"),
    [
        ({}, "val2014", r"no split 'val2014', did you mean 'val2017'\?\n.*train2017, val2017; or name its folder"),
        ({"images": {"val2017": "gone"}}, "val2017", r"gone: no such folder \(data\.images, split val2017\)"),
        (
            {"annotations": {"val2017": "gone.json"}},
            "val2017",
            r"gone\.json: no such file \(data\.annotations, split val2017\)",
        ),
        (
            {"eval": "train2017"},
            "train2017",
            r"no annotations to evaluate with, split train2017\n.*instances_val2017\.json.*data\.eval",
        ),
    ],
)
def test_what_is_not_there(mini: Any, settings: dict[str, Any], split: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ids(coco(mini.root, **settings), split)


def test_no_images(mini: Any) -> None:
    (mini.root / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no images"):
        ids(coco(mini.root, train="empty"), "empty")
    mini.content.update(images=[], annotations=[])
    mini.save()
    with pytest.raises(DataError, match=r"instances_val2017\.json: no images"):
        ids(coco(mini.root), "val2017")


def test_settings(tmp_path: Path) -> None:
    config = CocoConfig(root=tmp_path)
    assert (config.train, config.eval, config.subset, config.missing) == ("train2017", "val2017", None, "error")
    for bad in ({"missing": "ignore"}, {"images": "photos"}, {"subset": 3}, {"year": 2017}):
        with pytest.raises(ValidationError):
            CocoConfig(root=tmp_path, **bad)


def _real() -> Iterator[Any]:
    root = os.environ.get("COCO_ROOT")
    for split, count in (("train2017", 470), ("val2017", 382)):
        yield pytest.param(split, count, marks=pytest.mark.skipif(root is None, reason="COCO_ROOT is not set"))


@pytest.mark.parametrize(("split", "count"), _real())
def test_real_coco_equals_pycocotools(split: str, count: int) -> None:
    root = Path(os.environ["COCO_ROOT"])
    dataset, reference = coco(root), COCO(str(root / "annotations" / f"instances_{split}.json"))
    names = {number: item["name"] for number, item in reference.cats.items()}
    by_name = {image["file_name"]: image["id"] for image in reference.imgs.values()}
    total = 0
    sources = list(dataset.sources(split))
    assert sorted(by_name) == [source.id for source in sources]
    for source in sources:
        shape = dataset.read(ImageRecord(source.id, 0, 0, str(source.path))).shape
        where = record(root, source.id, split, shape[:2])
        expected = reference.loadAnns(reference.getAnnIds(imgIds=by_name[source.id]))
        ignored = np.zeros(shape[:2], np.bool_)
        for crowd, found in enumerate((dataset.instances(where), dataset.crowds(where))):
            wanted = [a for a in expected if a["iscrowd"] == crowd]
            assert found is not None
            assert [dataset.class_names[label + 1] for label in found.labels] == [names[a["category_id"]] for a in wanted]
            for mask, annotation in zip(found.to_masks(), wanted, strict=True):
                np.testing.assert_array_equal(mask, reference.annToMask(annotation))
                ignored |= mask & bool(crowd)
            corners = np.array([a["bbox"] for a in wanted]).reshape(-1, 4)
            corners[:, 2:] += corners[:, :2]
            np.testing.assert_allclose(found.boxes, corners, rtol=1e-6)
            total += len(wanted)
        labels = dataset.label_map(where)
        assert labels is not None
        assert set(np.unique(labels.values[ignored])) <= {255, *range(1, 81)}
        assert not (labels.values == 255)[~ignored].any()
    assert total == count == len(json.loads((root / "annotations" / f"instances_{split}.json").read_text())["annotations"])
