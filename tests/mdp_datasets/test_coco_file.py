from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from mdp_core.api import DataError
from mdp_datasets.coco_file import CocoFile, CocoImage, coco_file


def everything(path: Path) -> list[Any]:
    file = CocoFile(path)
    return [file.objects(image) for image in file.listing.images.values()]


def test_listing_is_sorted_by_name_and_by_number(mini: Any) -> None:
    listing = CocoFile(mini.file).listing
    assert [image.id for image in listing.images.values()] == [10, 20, 30]
    assert list(listing.images) == sorted(listing.images)
    assert dict(listing.categories) == {3: "cat", 7: "dog"}
    assert list(listing.categories) == [3, 7]


def test_objects_in_the_order_of_the_file(mini: Any) -> None:
    found = everything(mini.file)
    assert [[(item.id, item.category_id, item.crowd) for item in items] for items in found] == [
        [(101, 7, False), (102, 3, False), (103, 3, True)],
        [(104, 7, False)],
        [],
    ]
    assert [list(points) for points in found[0][0].segmentation] == mini.content["annotations"][0]["segmentation"]


def test_the_listing_needs_no_annotations_to_be_parsed(mini: Any) -> None:
    file = CocoFile(mini.file)
    with patch.object(CocoFile, "_parsed", side_effect=AssertionError):
        assert len(file.listing.images) == 3


@pytest.mark.parametrize("order", [["annotations", "categories", "images"], ["categories", "images", "info", "annotations"]])
def test_any_order_of_the_lists(mini: Any, order: list[str]) -> None:
    expected = CocoFile(mini.file).listing
    mini.content["annotations"][0]["images"] = {"categories": "of another tool"}
    mini.content = {key: mini.content[key] for key in order}
    mini.save()
    assert CocoFile(mini.file).listing == expected
    assert len(everything(mini.file)[0]) == 3


def test_both_ways_to_the_listing_agree(mini: Any) -> None:
    file = CocoFile(mini.file)
    assert file.listing == file._everything[0]


def test_a_process_reads_a_file_once_and_again_when_it_changes(mini: Any) -> None:
    first = coco_file(mini.file)
    assert coco_file(mini.file) is first
    del mini.content["images"][2]
    mini.save()
    assert len(coco_file(mini.file).listing.images) == 2


def _change(**lists: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update(lists)


def _first(name: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[name][0].update(changes)


def _without(name: str, key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content[name][0].pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("images"), "it has no list 'images'"),
        (lambda content: content.pop("annotations"), "it has no list 'annotations'"),
        (lambda content: content.pop("categories"), "it has no list 'categories'"),
        (_change(annotations={}), "it has no list 'annotations'"),
        (_change(categories=[]), "has no categories"),
        (_change(categories=[{"id": 3, "name": "cat"}] * 2), "a category without id or name, or twice"),
        (_change(categories=["cat"]), "a category without id or name"),
        (_first("images", id=10), "lists an image twice: 000000000001.jpg, id 10"),
        (_first("images", file_name="000000000001.jpg"), "lists an image twice: 000000000001.jpg"),
        (_first("images", file_name="../../secret.jpg"), "an image without id, file_name or a proper size"),
        (_first("images", file_name=5), "an image without id, file_name"),
        (_first("images", height=-4), "a proper size"),
        (_first("images", width="wide"), "a proper size"),
        (_without("images", "file_name"), "an image without id, file_name"),
        (_without("images", "id"), "an image without id"),
        (_without("annotations", "category_id"), "an annotation without image_id or category_id"),
        (_without("annotations", "image_id"), "an annotation without image_id or category_id"),
        (_first("annotations", image_id=99), "annotation 101 is of image 99, which the file does not list"),
        (_first("annotations", image_id=[1]), r"annotation 101 is of image \[1\]"),
        (_first("annotations", category_id=4), "annotation 101 is of category 4, which the file does not list"),
    ],
)
def test_what_is_missing_or_wrong_is_named(mini: Any, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    change(mini.content)
    mini.save()
    with pytest.raises(DataError, match=rf"instances_val2017\.json: .*{message}"):
        everything(mini.file)


@pytest.mark.parametrize("contents", [b"", b"{", b"<html>", b"\xff\xfe", b'{"images": [' + b"[" * 100_000])
def test_no_json(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(contents)
    with pytest.raises(DataError, match=r"a\.json: (is no JSON, or is cut off|cannot be read as annotations)"):
        CocoFile(path).listing  # noqa: B018


def test_a_list_is_no_annotations(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(DataError, match="holds a list"):
        CocoFile(tmp_path / "results.json").listing  # noqa: B018


def test_cut_off_anywhere_is_noticed_before_any_work(mini: Any) -> None:
    text = mini.file.read_text()
    for length in range(20, len(text) - 1, 37):
        mini.file.write_text(text[:length])
        with pytest.raises(DataError, match="is no JSON"):
            CocoFile(mini.file).listing  # noqa: B018


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json: cannot be read"):
        coco_file(tmp_path / "a.json")


def test_captions_are_named_as_such(mini: Any) -> None:
    mini.content["annotations"] = [{"id": 1, "image_id": 10, "caption": "A dog."}]
    mini.save()
    with pytest.raises(DataError, match=r"an annotation without image_id or category_id: \{.*A dog"):
        everything(mini.file)


def test_sizes_may_be_left_out(mini: Any) -> None:
    for image in mini.content["images"]:
        del image["height"], image["width"]
    mini.save()
    assert CocoFile(mini.file).listing.images["000000000001.jpg"] == CocoImage(10, "000000000001.jpg", 0, 0)


def test_polygons_are_packed(mini: Any) -> None:
    """Python's numbers would take 4 times as much."""
    mini.content["annotations"] = [
        {"id": n, "image_id": 10, "category_id": 3, "segmentation": [[float(i) for i in range(100)]]} for n in range(3)
    ]
    mini.save()
    for item in everything(mini.file)[0]:
        assert [points.itemsize * len(points) for points in item.segmentation] == [800]
    assert json.loads(mini.file.read_text())["annotations"][0]["segmentation"] == [
        list(everything(mini.file)[0][0].segmentation[0])
    ]
