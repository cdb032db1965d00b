from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from mdp_core.api import Context, DataError, ImageRecord
from mdp_datasets.folder import Folder
from mdp_datasets.settings import FolderConfig


def folder(root: Path | str) -> Folder:
    return Folder(FolderConfig(root=root), Context())


def ids(root: Path | str) -> list[str]:
    return [source.id for source in folder(root).sources("all")]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_recursive_in_the_order_of_relative_paths(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.png", "b/10.JPG", "a.jpeg", "b.TIFF", "c/d/e.WebP", "Z.bmp", "b-1.tif", "ä ö/ü.jpg")
    names = ids(tmp_path)
    assert names == ["Z.bmp", "a.jpeg", "b-1.tif", "b.TIFF", "b/10.JPG", "b/2.png", "c/d/e.WebP", "ä ö/ü.jpg"]
    assert names == sorted(names)
    sources = list(folder(tmp_path).sources("all"))
    assert [source.path for source in sources] == [tmp_path / name for name in names]
    assert all(source.size is None and source.content is None and source.truth == () for source in sources)


def test_other_files_and_hidden_ones_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "a.txt", "jpg", "a.jpg.zip", ".a.jpg", "._b.jpg", ".thumbs/c.jpg", "d/.e/f.jpg", "d/g.png")
    assert ids(tmp_path) == ["a.jpg", "d/g.png"]


def test_a_folder_named_like_an_image_is_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "set.jpg/a.png")
    assert ids(tmp_path) == ["set.jpg/a.png"]


def test_the_root_itself_may_be_hidden(tmp_path: Path) -> None:
    touch(tmp_path, ".data/a.png")
    assert ids(tmp_path / ".data") == ["a.png"]


def test_links_are_followed_but_no_loops(tmp_path: Path) -> None:
    touch(tmp_path, "root/a.png", "root/in/b.png", "elsewhere/c.png", "elsewhere/deep/d.png")
    root = tmp_path / "root"
    (root / "in/self").symlink_to(root / "in")
    (root / "in/up").symlink_to("..")
    (root / "above").symlink_to(tmp_path)
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/deep/back").symlink_to(root)
    (tmp_path / "elsewhere/around").symlink_to(tmp_path / "elsewhere")
    (root / "e.png").symlink_to(tmp_path / "elsewhere/c.png")
    assert ids(root) == ["a.png", "e.png", "in/b.png", "link/c.png", "link/deep/d.png"]


def test_a_broken_link_is_a_bad_image_and_not_lost(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing.png")
    assert ids(tmp_path) == ["a.png", "gone.png"]


def test_a_linked_root(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.png")
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert ids(tmp_path / "root") == ["a.png"]


def test_pipes_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert ids(tmp_path) == ["a.png"]


def test_read_applies_exif_orientation(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (4, 7, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    pixels = folder(tmp_path).read(ImageRecord("a.png", 7, 4, str(tmp_path / "a.png")))
    np.testing.assert_array_equal(pixels, np.rot90(stored, -1))


def test_there_is_no_ground_truth(tmp_path: Path) -> None:
    dataset = folder(tmp_path)
    record = ImageRecord("a.png", 1, 1, str(tmp_path / "a.png"))
    assert (dataset.class_names, dataset.label_map(record), dataset.instances(record)) == ((), None, None)


def test_settings() -> None:
    config = FolderConfig(root="somewhere/that/is/not/there")
    assert (config.root, config.train, config.eval) == (Path("somewhere/that/is/not/there"), "all", None)
    assert FolderConfig(root="x", eval="all").eval == "all"
    with pytest.raises(ValidationError, match="'all'"):
        FolderConfig(root="x", train="train")
    with pytest.raises(ValidationError, match="root"):
        FolderConfig()


def test_home_is_expanded_and_relative_roots_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "pictures/a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ids("~/pictures") == ["a.png"]
    monkeypatch.chdir(tmp_path)
    assert ids("pictures") == ["a.png"]


@pytest.mark.parametrize(
    ("root", "message"),
    [("absent", r"absent: no such folder\n.*data\.root"), ("file.png", r"file\.png: is a file, not a folder\n.*data\.root"),
     ("empty", r"empty: no images in this folder or below it\n.*\.jpg.*\.png")],
)  # fmt: skip
def test_a_root_without_images_is_an_error(tmp_path: Path, root: str, message: str) -> None:
    touch(tmp_path, "file.png", "empty/notes.txt", "empty/.hidden.png")
    with pytest.raises(DataError, match=message):
        ids(tmp_path / root)


def test_a_missing_relative_root_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"photos: no such folder .looked for in {tmp_path}"):
        ids("photos")


def test_unknown_split(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    with pytest.raises(DataError, match=r"no split 'val'\n.*all"):
        list(folder(tmp_path).sources("val"))


def test_a_name_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    try:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg"))).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(DataError, match=r"caf\\xe9\.jpg.*not valid UTF-8\n.*rename"):
        ids(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "locked/b.png")
    (tmp_path / "locked").chmod(0)
    try:
        with pytest.raises(DataError, match="locked: cannot be listed"):
            ids(tmp_path)
    finally:
        (tmp_path / "locked").chmod(0o700)
