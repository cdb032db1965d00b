from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdp_core.api import Context, DataError, Dataset, DatasetConfig, ImageRecord, LabelMap, Source
from mdp_core.engine.scan import ImageSet, Scanner, remembered_folders


class Files(Dataset[DatasetConfig]):
    """All PNGs and JPEGs of a folder; ``x.truth`` beside ``x.png`` is its ground truth."""

    Config = DatasetConfig

    def __init__(self, root: Path, **settings: object) -> None:
        super().__init__(DatasetConfig(**settings), Context())
        self.root = root

    def sources(self, split: str) -> Iterator[Source]:
        for path in sorted(p for p in self.root.iterdir() if p.suffix in (".png", ".jpg")):
            truth = path.with_suffix(".truth")
            yield Source(path.name, path, truth=(truth,) if truth.exists() else ())

    @property
    def class_names(self) -> tuple[str, ...]:
        return ("background", "thing")

    def label_map(self, record: ImageRecord) -> LabelMap | None:
        return None


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)


def folder(root: Path) -> Path:
    root.mkdir(parents=True)
    for i in range(3):
        picture(root / f"{i}.png", i)
        (root / f"{i}.truth").write_text(f"truth {i}")
    return root


def scan(root: Path, memory: Path, **settings: object) -> ImageSet:
    return Scanner(memory).scan(Files(root, **settings), "files 1", "all")


def test_fingerprint_is_of_contents_not_of_times_or_places(tmp_path: Path) -> None:
    first = scan(folder(tmp_path / "a"), tmp_path / "memory")
    for path in (tmp_path / "a").iterdir():
        os.utime(path, (1, 1))
    touched = scan(tmp_path / "a", tmp_path / "memory")
    moved = scan(folder(tmp_path / "b"), tmp_path / "memory")
    assert first.fingerprint == touched.fingerprint == moved.fingerprint
    assert first.truth_fingerprint == touched.truth_fingerprint == moved.truth_fingerprint
    assert [(r.id, r.height, r.width) for r in first.records] == [("0.png", 30, 40), ("1.png", 30, 40), ("2.png", 30, 40)]


def test_fingerprints_are_those_of_the_first_version(tmp_path: Path) -> None:
    """Written down once, with the implementation that came first: others would make every stored result useless."""
    for i in range(5):
        pixels = bytes((x * 7 + i) % 256 for x in range((20 + i) * 30 * 3))
        (tmp_path / f"{i}.png").write_bytes(b"P6 %d 30 255\n" % (20 + i) + pixels)
        (tmp_path / f"{i}.truth").write_text(f"truth {i}")
    (tmp_path / "5.jpg").write_text("no image")
    found = scan(tmp_path, tmp_path / "memory")
    assert found.fingerprint == "84d61dac9dafc53eaafd3d1644a9c511"
    assert found.truth_fingerprint == "f9955c459c305853137acf5bb508c667"


def test_a_file_replaced_by_one_of_equal_size_and_time_is_noticed(tmp_path: Path) -> None:
    root = folder(tmp_path / "a")
    before = scan(root, tmp_path / "memory")
    status = (root / "1.truth").stat()
    (root / "1.truth").write_text("truth X")
    os.utime(root / "1.truth", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (root / "1.truth").stat().st_size == status.st_size
    assert scan(root, tmp_path / "memory").truth_fingerprint != before.truth_fingerprint


@pytest.mark.parametrize("harm", ["cut", "other version", "other shape", "empty"])
def test_a_damaged_memory_is_no_memory(tmp_path: Path, harm: str) -> None:
    root = folder(tmp_path / "a")
    before = scan(root, tmp_path / "memory")
    for file in (tmp_path / "memory").iterdir():
        text = file.read_text()
        file.write_text(
            {
                "cut": text[: len(text) // 2],
                "other version": text.replace('"format":2', '"format":99'),
                "other shape": '{"format":2,"folders":{"x":[["y",3]]}}',
                "empty": "",
            }[harm]
        )
    assert scan(root, tmp_path / "memory") == before


def test_an_interrupted_first_scan_goes_on_where_it_was(tmp_path: Path) -> None:
    root = tmp_path / "a"
    root.mkdir()
    for i in range(700):
        (root / f"{i:03d}.png").write_bytes(b"P6 16 16 255\n" + bytes([i % 256]) * 768)

    def stop(done: int, total: int) -> None:
        if done == 600:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Scanner(tmp_path / "memory", stop).scan(Files(root), "files 1", "all")
    left: list[int] = []
    Scanner(tmp_path / "memory", lambda done, total: left.append(total)).scan(Files(root), "files 1", "all")
    assert left == [100] * 100


def test_files_that_vanish_and_come_back(tmp_path: Path) -> None:
    root = folder(tmp_path / "a")
    before = scan(root, tmp_path / "memory")
    kept = (root / "1.png").read_bytes()
    (root / "1.png").unlink()
    assert [r.id for r in scan(root, tmp_path / "memory").records] == ["0.png", "2.png"]
    (root / "1.png").write_bytes(kept)
    assert scan(root, tmp_path / "memory").fingerprint == before.fingerprint


def test_a_memory_tells_its_folders(tmp_path: Path) -> None:
    root = folder(tmp_path / "a")
    scan(root, tmp_path / "memory")
    assert [remembered_folders(file) for file in (tmp_path / "memory").iterdir()] == [[str(root)], [str(root)]]
    (tmp_path / "memory" / "other.json").write_text("{}")
    assert remembered_folders(tmp_path / "memory" / "other.json") is None


def test_images_and_ground_truth_have_fingerprints_of_their_own(tmp_path: Path) -> None:
    before = scan(folder(tmp_path / "a"), tmp_path / "memory")
    (tmp_path / "a" / "1.truth").write_text("corrected")
    relabelled = scan(tmp_path / "a", tmp_path / "memory")
    assert relabelled.fingerprint == before.fingerprint
    assert relabelled.truth_fingerprint != before.truth_fingerprint
    picture(tmp_path / "a" / "1.png", 99)
    assert scan(tmp_path / "a", tmp_path / "memory").fingerprint != before.fingerprint


def test_files_are_opened_once(tmp_path: Path) -> None:
    folder(tmp_path / "a")
    opened: list[int] = []
    scanner = Scanner(tmp_path / "memory", lambda done, total: opened.append(total))
    for _ in range(2):
        scanner.scan(Files(tmp_path / "a"), "files 1", "all")
    assert opened == [3, 3, 3, 3, 3, 3], "three images and three truths, and nothing the second time"


def test_bad_images_are_listed_or_fatal(tmp_path: Path) -> None:
    root = folder(tmp_path / "a")
    whole = (root / "1.png").read_bytes()
    (root / "1.png").write_bytes(whole[: len(whole) // 2])
    (root / "3.jpg").write_text("no image")
    picture(root / "4.png", 4, size=(1, 1))
    found = scan(root, tmp_path / "memory")
    assert [r.id for r in found.records] == ["0.png", "2.png"]
    assert [b.id for b in found.bad] == ["1.png", "3.jpg", "4.png"]
    assert str(root / "1.png") in found.bad[0].reason
    assert "1×1 px is too small" in found.bad[2].reason
    with pytest.raises(DataError, match="3 of 5 images") as caught:
        scan(root, tmp_path / "memory", on_bad_image="error")
    assert "3.jpg" in caught.value.message
    assert "on_bad_image: skip" in str(caught.value.hint)


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    root = tmp_path / "a"
    root.mkdir()
    with pytest.raises(DataError, match="has no images"):
        scan(root, tmp_path / "memory")
    (root / "1.png").write_text("no image")
    with pytest.raises(DataError, match="all 1 are bad"):
        scan(root, tmp_path / "memory")


@pytest.mark.parametrize("image_id", ["../up", "/root", ""])
def test_ids_stay_inside(tmp_path: Path, image_id: str) -> None:
    class Sly(Files):
        def sources(self, split: str) -> Iterator[Source]:
            yield Source(image_id, size=(32, 32), content="x")

    with pytest.raises(DataError, match="cannot be an image id"):
        Scanner(tmp_path).scan(Sly(tmp_path), "sly 1", "all")


def test_two_images_of_one_id(tmp_path: Path) -> None:
    class Twice(Files):
        def sources(self, split: str) -> Iterator[Source]:
            yield Source("a", size=(32, 32), content="x")
            yield Source("a", size=(32, 32), content="y")

    with pytest.raises(DataError, match="two images have the id 'a'"):
        Scanner(tmp_path).scan(Twice(tmp_path), "twice 1", "all")
