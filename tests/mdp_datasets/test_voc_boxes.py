from __future__ import annotations

from pathlib import Path

import pytest

from mdp_core.api import DataError, ImageRecord
from mdp_datasets.voc import CLASS_NAMES
from mdp_datasets.voc_boxes import read_boxes

RECORD = ImageRecord("a", 20, 30)
OBJECT = "<object><name>{}</name>{}<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def annotated(*objects: str, size: str = "<size><width>30</width><height>20</height><depth>3</depth></size>") -> str:
    return f"<annotation><filename>a.jpg</filename>{size}{''.join(objects)}</annotation>"


def read(tmp_path: Path, text: str | bytes) -> tuple[list[list[float]], list[str]]:
    path = tmp_path / "a.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = read_boxes(path, RECORD, CLASS_NAMES[1:])
    assert found.boxes.shape == (len(found.labels), 4)
    return found.boxes.tolist(), [CLASS_NAMES[label + 1] for label in found.labels]


def test_pixels_from_1_become_pixels_from_0_with_exclusive_ends(tmp_path: Path) -> None:
    one = OBJECT.format("cat", "", 1, 1, 1, 1)
    whole = OBJECT.format("dog", "", 1, 1, 30, 20)
    assert read(tmp_path, annotated(one, whole)) == ([[0, 0, 1, 1], [0, 0, 30, 20]], ["cat", "dog"])


def test_difficult_and_truncated_objects_count_and_parts_do_not(tmp_path: Path) -> None:
    marks = "<pose>Left</pose><truncated>1</truncated><difficult>1</difficult>"
    part = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part>"
    person = OBJECT.format("person", part + marks, 5, 6, 25.7, 16)
    boxes, names = read(tmp_path, annotated(person))
    assert names == ["person"]
    assert boxes[0] == pytest.approx([4, 5, 25.7, 16])


def test_no_objects(tmp_path: Path) -> None:
    assert read(tmp_path, annotated()) == ([], [])


def test_boxes_are_cut_at_the_border(tmp_path: Path) -> None:
    assert read(tmp_path, annotated(OBJECT.format("cow", "", 0, -3, 31, 22)))[0] == [[0, 0, 30, 20]]


def test_a_size_need_not_be_written(tmp_path: Path) -> None:
    assert read(tmp_path, annotated(OBJECT.format("cow", "", 1, 1, 2, 2), size=""))[1] == ["cow"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (annotated(OBJECT.format("wolf", "", 1, 1, 2, 2)), "object 1: 'wolf' is no class of VOC\n.*aeroplane"),
        (annotated(OBJECT.format("cat", "", 9, 1, 8, 2)), r"object 1: no box in the image \(cat, bndbox 9 1 8 2\)"),
        (annotated(OBJECT.format("cat", "", 40, 1, 50, 2)), "object 1: no box in the image"),
        (annotated(OBJECT.format("cat", "", "left", 1, 50, 2)), "object 1: no box in the image"),
        (annotated(OBJECT.format("cat", "", "inf", 1, "nan", 2)), "object 1: no box in the image"),
        (annotated("<object><name>cat</name></object>"), "object 1: no box in the image"),
        (annotated(size="<size><width>20</width><height>30</height></size>"), "20×30 px, but its image is 30×20"),
        ("", "cannot be read as annotations of VOC"),
        ("<annotation><object>", "cannot be read as annotations of VOC"),
        (b"\xff\xd8\xff\xe0", "cannot be read as annotations of VOC"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "cannot be read as annotations of VOC"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"a\.xml: {message}"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>',
        '<!DOCTYPE a [<!ENTITY l "lol"><!ENTITY x "&l;&l;&l;&l;&l;&l;&l;&l;&l;">]>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd">',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused(tmp_path: Path, declaration: str, encoding: str) -> None:
    text = declaration + annotated(OBJECT.format("&x;" if "ENTITY" in declaration else "cat", "", 1, 1, 2, 2))
    with pytest.raises(DataError, match="it declares a document type"):
        read(tmp_path, text.encode(encoding))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_boxes(tmp_path / "b.xml", RECORD, CLASS_NAMES[1:])
