from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from mdp_core.api import Context, DataError, ImageRecord, LabelMap
from mdp_datasets.settings import VocConfig
from mdp_datasets.voc import CLASS_NAMES, Voc

SIZE = (6, 8)


def voc(root: Path, **settings: Any) -> Voc:
    return Voc(VocConfig(root=root, **settings), Context())


def record(name: str, size: tuple[int, int] = SIZE) -> ImageRecord:
    return ImageRecord(name, *size)


def write(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(LabelMap(values.astype(np.uint8)).to_png())
    return path


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """A small VOCdevkit: two official images, one of SBD, one whose JPEG is missing; lists in several dialects."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000001\n2007_000003\n")
    (lists / "val.txt").write_bytes(b"\xef\xbb\xbf2007_000002\r\n\r\n  2007_000001  \r\n2007_000002\r\n\n")
    (lists / "trainaug.txt").write_text("/JPEGImages/2008_000009.jpg /SegmentationClassAug/2008_000009.png\n2007_000001 1\n")
    (lists / "nothing.txt").write_text("\n\n")
    (root / "JPEGImages").mkdir()
    for number, name in enumerate(["2007_000001", "2007_000002", "2008_000009"]):
        Image.new("RGB", SIZE[::-1], (number * 50,) * 3).save(root / "JPEGImages" / f"{name}.jpg")
        write(root / "SegmentationClassAug" / f"{name}.png", np.full(SIZE, 7))
    for name in ("2007_000001", "2007_000002"):
        write(root / "SegmentationClass" / f"{name}.png", np.full(SIZE, 15))
    write(root / "SegmentationObject" / "2007_000001.png", np.full(SIZE, 1))
    return root.parent


def test_root_may_be_either_folder(devkit: Path) -> None:
    for root in (devkit, devkit / "VOC2012"):
        sources = list(voc(root).sources("train"))
        assert [source.id for source in sources] == ["2007_000001", "2007_000003"]
        assert sources[0].path == devkit / "VOC2012/JPEGImages/2007_000001.jpg"


def test_lists_of_several_dialects(devkit: Path) -> None:
    dataset = voc(devkit)
    assert [source.id for source in dataset.sources("val")] == ["2007_000002", "2007_000001"]
    assert [source.id for source in dataset.sources("trainaug")] == ["2008_000009", "2007_000001"]


def test_a_missing_jpeg_is_left_to_the_engine(devkit: Path) -> None:
    missing = list(voc(devkit).sources("train"))[1]
    assert missing.path is not None
    assert not missing.path.exists()
    assert missing.truth == ()


def test_truth_lists_the_files_that_exist(devkit: Path) -> None:
    root = devkit / "VOC2012"
    truth = {source.id: source.truth for split in ("train", "val", "trainaug") for source in voc(devkit).sources(split)}
    assert truth == {
        "2007_000001": (root / "SegmentationClass/2007_000001.png", root / "SegmentationObject/2007_000001.png"),
        "2007_000002": (root / "SegmentationClass/2007_000002.png",),
        "2007_000003": (),
        "2008_000009": (root / "SegmentationClassAug/2008_000009.png",),
    }


@pytest.mark.parametrize(
    ("labels", "official", "augmented"),
    [("auto", 15, 7), ("SegmentationClass", 15, None), ("SegmentationClassAug", 7, 7)],
)
def test_class_maps_by_setting(devkit: Path, labels: str, official: int, augmented: int | None) -> None:
    dataset = voc(devkit, labels=labels)
    values = {}
    for name in ("2007_000002", "2008_000009", "2007_000003"):
        found = dataset.label_map(record(name))
        values[name] = None if found is None else int(np.unique(found.values).item())
    assert values == {"2007_000002": official, "2008_000009": augmented, "2007_000003": None}


def test_instances_take_the_majority_class(devkit: Path) -> None:
    root = devkit / "VOC2012"
    objects, classes = np.zeros(SIZE), np.zeros(SIZE)
    objects[0, :6], classes[0, :6] = 1, [3, 3, 3, 5, 5, 0]
    objects[1, :6], classes[1, :6] = 2, [0, 0, 0, 0, 20, 255]
    objects[2, :6], classes[2, :6] = 3, [0, 0, 0, 255, 255, 255]
    objects[3, :6], classes[3, :6] = 255, 9
    objects[4, :3], classes[4, :3] = 7, 1
    classes[5] = 4
    write(root / "SegmentationObject/2007_000001.png", objects)
    write(root / "SegmentationClass/2007_000001.png", classes)
    instances = voc(devkit).instances(record("2007_000001"))
    assert instances is not None
    assert [CLASS_NAMES[label + 1] for label in instances.labels] == ["bird", "tvmonitor", "aeroplane"]
    np.testing.assert_array_equal(instances.to_masks(), [objects == number for number in (1, 2, 7)])


def test_no_objects_at_all_is_empty_and_no_file_is_none(devkit: Path) -> None:
    write(devkit / "VOC2012/SegmentationObject/2007_000001.png", np.zeros(SIZE))
    dataset = voc(devkit)
    empty = dataset.instances(record("2007_000001"))
    assert empty is not None
    assert (len(empty), empty.size) == (0, SIZE)
    assert dataset.instances(record("2007_000002")) is None
    assert dataset.instances(record("2008_000009")) is None


def test_truth_of_another_size_is_an_error(devkit: Path) -> None:
    with pytest.raises(
        DataError, match=r"SegmentationClass/2007_000001\.png: 8×6 px, but its image is 6×8\n.*different copies"
    ):
        voc(devkit).label_map(record("2007_000001", SIZE[::-1]))


XML = """<annotation><size><width>8</width><height>6</height></size>
<object><name>cat</name><difficult>1</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>4</xmax><ymax>6</ymax></bndbox></object>
</annotation>"""


def test_boxes_of_the_annotations(devkit: Path) -> None:
    path = devkit / "VOC2012/Annotations/2007_000001.xml"
    path.parent.mkdir()
    path.write_text(XML)
    found = voc(devkit).boxes(record("2007_000001"))
    assert found is not None
    assert (found.boxes.tolist(), found.labels.tolist()) == ([[0, 1, 4, 6]], [CLASS_NAMES.index("cat") - 1])
    assert next(iter(voc(devkit).sources("train"))).truth[-1] == path


def test_no_annotations_no_boxes_even_where_there_are_objects(devkit: Path) -> None:
    assert voc(devkit).instances(record("2007_000001")) is not None
    assert voc(devkit).boxes(record("2007_000001")) is None


def test_truth_is_that_of_the_year_an_image_is_of(devkit: Path) -> None:
    lists = devkit / "VOC2007/ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("000005\n")
    write(devkit / "VOC2007/SegmentationClass/000005.png", np.full(SIZE, 3))
    write(devkit / "VOC2007/SegmentationObject/000005.png", np.full(SIZE, 1))
    (devkit / "VOC2007/Annotations").mkdir()
    (devkit / "VOC2007/Annotations/000005.xml").write_text(XML)
    dataset = voc(devkit, support="2007:Main/trainval+val")
    sources = list(dataset.sources("2007:Main/trainval+val"))
    assert [source.id for source in sources] == ["000005", "2007_000002", "2007_000001"]
    assert [len(source.truth) for source in sources] == [3, 1, 2]
    old, new = (ImageRecord(source.id, *SIZE, str(source.path)) for source in sources[:2])
    for image, value in ((old, 3), (new, 15)):
        labels = dataset.label_map(image)
        assert labels is not None
        assert np.unique(labels.values).tolist() == [value]
    assert len(dataset.instances(old) or ()) == 1
    assert dataset.boxes(old) is not None
    assert dataset.boxes(new) is None


def test_unknown_split_lists_those_there(devkit: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'vla', did you mean 'val'\?\n.*nothing, train, trainaug, val"):
        list(voc(devkit).sources("vla"))
    with pytest.raises(DataError, match=r"no split '\.\./Segmentation/val'"):
        list(voc(devkit).sources("../Segmentation/val"))


def test_missing_trainaug_says_where_it_comes_from(devkit: Path) -> None:
    (devkit / "VOC2012/ImageSets/Segmentation/trainaug.txt").unlink()
    assert len(list(voc(devkit).sources("trainaug"))) == 10_582  # SegmentationClassAug is there: the list comes with mdp
    (devkit / "VOC2012/SegmentationClassAug").rename(devkit / "elsewhere")
    with pytest.raises(
        DataError, match=r"no split 'trainaug', did you mean 'train'\?\n.*SegmentationClassAug.*SBD.*data\.train: train"
    ):
        list(voc(devkit).sources("trainaug"))


def test_empty_list(devkit: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.txt: lists no images"):
        list(voc(devkit).sources("nothing"))


def test_wrong_roots(devkit: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        list(voc(tmp_path / "absent").sources("val"))
    with pytest.raises(DataError, match=r"neither VOC2012/ImageSets/Segmentation nor .*\n.*this one holds: VOCdevkit$"):
        list(voc(tmp_path).sources("val"))
    with pytest.raises(DataError, match="neither VOC2007/ImageSets/Segmentation"):
        list(voc(devkit, year=2007).sources("val"))
    (devkit / "VOC2012").rename(devkit / "VOC2007")
    assert len(list(voc(devkit, year=2007).sources("val"))) == 2


def test_settings(tmp_path: Path) -> None:
    config = VocConfig(root=tmp_path)
    assert (config.train, config.eval, config.year, config.labels) == ("trainaug", "val", 2012, "auto")
    for bad in ({"year": 2013}, {"labels": "Main"}, {"split": "val"}):
        with pytest.raises(ValidationError):
            VocConfig(root=tmp_path, **bad)


def test_names_of_classes(tmp_path: Path) -> None:
    names = voc(tmp_path).class_names
    assert len(names) == 21
    assert [names[i] for i in (0, 1, 8, 12, 15, 20)] == ["background", "aeroplane", "cat", "dog", "person", "tvmonitor"]


@pytest.mark.skipif("VOC_ROOT" not in os.environ, reason="VOC_ROOT is not set")
def test_real_voc() -> None:
    dataset = voc(Path(os.environ["VOC_ROOT"]))
    for split in ("trainaug", "val"):
        sources = list(dataset.sources(split))
        assert len(sources) > 100
        for source in sources[::40]:
            assert source.path is not None
            height, width = dataset.read(ImageRecord(source.id, 0, 0, str(source.path))).shape[:2]
            labels = dataset.label_map(record(source.id, (height, width)))
            assert labels is not None
            assert set(np.unique(labels.values)) <= {*range(21), 255}
            assert len(source.truth) >= 1
            folder = source.truth[0].parent.name
            assert folder == ("SegmentationClass" if (source.truth[0].parents[1] / "SegmentationClass" / source.truth[0].name).exists()
                              else "SegmentationClassAug")  # fmt: skip
