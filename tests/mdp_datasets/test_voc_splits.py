from __future__ import annotations

from pathlib import Path

import pytest

from mdp_core.api import DataError
from mdp_datasets.lists import shipped
from mdp_datasets.voc_splits import images_of


def lists(root: Path, **files: str) -> None:
    """Writes lists; ``Main__trainval`` is Main/trainval.txt."""
    for name, text in files.items():
        path = root / "ImageSets" / f"{name.replace('__', '/')}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """Two years."""
    root = tmp_path / "VOCdevkit"
    lists(root / "VOC2007", Segmentation__val="000032\n", Main__trainval="000005\n000007\n")
    main = "2008_000002\n2008_000003\n"
    lists(root / "VOC2012", Segmentation__val="2007_000033\n", Main__trainval=main, Main__train="2008_000003\n2008_000009\n")
    lists(root / "VOC2012", Main__cat_train="2008_000003  1\n2008_000009 -1\n2008_000011  0\n")
    return root


def found(root: Path, split: str, year: int = 2012) -> list[tuple[str, str]]:
    return [(image.folder.name, image.name) for image in images_of(root, year, split)]


def test_lists_of_main(devkit: Path) -> None:
    assert found(devkit, "Main/trainval") == [("VOC2012", "2008_000002"), ("VOC2012", "2008_000003")]
    assert images_of(devkit, 2012, "Main/trainval")[0].path == devkit / "VOC2012/JPEGImages/2008_000002.jpg"
    assert found(devkit, "Segmentation/val") == found(devkit, "val") == [("VOC2012", "2007_000033")]


def test_lists_of_one_class_leave_out_images_without_it(devkit: Path) -> None:
    assert [name for _, name in found(devkit, "Main/cat_train")] == ["2008_000003", "2008_000011"]


def test_another_year_and_unions(devkit: Path) -> None:
    assert found(devkit, "2007:val") == [("VOC2007", "000032")]
    assert found(devkit, "2007:Main/trainval+2012:Main/trainval") == [
        ("VOC2007", "000005"), ("VOC2007", "000007"), ("VOC2012", "2008_000002"), ("VOC2012", "2008_000003"),
    ]  # fmt: skip
    assert [name for _, name in found(devkit, "Main/trainval+Main/train")] == ["2008_000002", "2008_000003", "2008_000009"]
    assert found(devkit, "val", year=2007) == [("VOC2007", "000032")]


def test_another_year_lies_beside_a_root_that_is_a_year(devkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(devkit / "VOC2012", "2007:val+val") == [("VOC2007", "000032"), ("VOC2012", "2007_000033")]
    monkeypatch.chdir(devkit / "VOC2012")
    assert [name for _, name in found(Path(), "2007:val+val")] == ["000032", "2007_000033"]


def test_images_of_one_name_in_two_years(devkit: Path) -> None:
    lists(devkit / "VOC2011", Main__trainval="2008_000001\n2008_000003\n")
    with pytest.raises(DataError, match=r"two images are named 2008_000003: in .*VOC2011 and in .*VOC2012"):
        found(devkit, "2011:Main/trainval+2012:Main/trainval")


def test_a_year_that_is_not_there(devkit: Path) -> None:
    with pytest.raises(DataError, match=r"neither VOC2009/ImageSets/Main nor .*\n.*this one holds: VOC2007, VOC2012"):
        found(devkit, "2009:Main/trainval+2012:Main/trainval")
    with pytest.raises(DataError, match=r"neither VOC2009/ImageSets/Main"):
        found(devkit / "VOC2012", "2009:Main/trainval")


@pytest.mark.parametrize(
    "split", ["Main/trainvla", "Main/", "Man/trainval", "Main/../val", "../val", "x:val", "val+", "", "2012:"]
)
def test_unknown_lists(devkit: Path, split: str) -> None:
    with pytest.raises(DataError, match=r"no split|neither VOC2012/ImageSets/Man nor"):
        found(devkit, split)


def test_lists_of_classes_are_not_named_in_messages(devkit: Path) -> None:
    with pytest.raises(DataError, match=r"did you mean 'Main/trainval'\?\n.*splits there: Main/train, Main/trainval$"):
        found(devkit, "Main/trainvla")


def test_trainaug_comes_with_mdp_where_the_labels_are_there(devkit: Path) -> None:
    with pytest.raises(DataError, match="no split 'trainaug'"):
        found(devkit, "trainaug")
    for name in ("JPEGImages", "SegmentationClassAug"):
        (devkit / "VOC2012" / name).mkdir()
        (devkit / "VOC2007" / name).mkdir()
    assert [name for _, name in found(devkit, "trainaug")] == shipped("voc2012-trainaug")
    lists(devkit / "VOC2012", Segmentation__trainaug="2008_000002\n")
    assert found(devkit, "trainaug") == [("VOC2012", "2008_000002")]
    with pytest.raises(DataError, match="no split 'trainaug'"):
        found(devkit, "2007:trainaug")
