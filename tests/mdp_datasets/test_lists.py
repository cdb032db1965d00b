from __future__ import annotations

from pathlib import Path

import pytest

from mdp_core.api import DataError
from mdp_datasets.lists import SHIPPED, read_lines, read_subset, shipped


def test_coco20k() -> None:
    names = shipped("coco20k")
    assert (len(names), len(set(names))) == (19_817, 19_817)
    assert names == sorted(names)
    assert all(name.startswith("train2014/COCO_train2014_") and name.endswith(".jpg") and len(name) == 41 for name in names)
    assert "train2014/COCO_train2014_000000560992.jpg" in names


def test_trainaug() -> None:
    names = shipped("voc2012-trainaug")
    assert (len(names), len(set(names))) == (10_582, 10_582)
    assert (names[0], names[-1]) == ("2007_000032", "2011_003276")


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_said_of_a_list_is_so(name: str) -> None:
    assert SHIPPED[name].startswith(f"{len(shipped(name)):,} images")


def test_files_relative_to_here_and_to_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "few.txt").write_text("a.jpg\n\n  b.jpg \n")
    assert read_subset("few.txt", root) == ["a.jpg", "b.jpg"]
    assert read_subset(str(root / "few.txt"), tmp_path) == ["a.jpg", "b.jpg"]
    (tmp_path / "few.txt").write_text("c.jpg")
    monkeypatch.chdir(tmp_path)
    assert read_subset("few.txt", root) == ["c.jpg"]


def test_unknown_empty_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"subset coco20: neither .* did you mean 'coco20k'\?\n.*voc2012-trainaug"):
        read_subset("coco20", tmp_path)
    (tmp_path / "none.txt").write_text("\n \n")
    with pytest.raises(DataError, match="lists no images"):
        read_subset("none.txt", tmp_path)
    (tmp_path / "picture.txt").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match="not UTF-8"):
        read_lines(tmp_path / "picture.txt")
