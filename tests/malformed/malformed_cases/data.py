"""Datasets with mistakes in them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from malformed_cases.case import TOY, Case
from malformed_cases.texts import PIPELINE

_FOLDER = f"name: photos\ndata: {{use: folder, root: photos}}\n{PIPELINE}"
_VOC = f"name: voc\ndata: {{use: voc, root: VOCdevkit, train: train, eval: val}}\n{PIPELINE}evaluate: [clustering]\n"
_LISTS = "VOCdevkit/VOC2012/ImageSets/Segmentation"


def photos(folder: Path, count: int = 3) -> Path:
    """Makes photographs with one bright object each."""
    root = folder / "photos"
    root.mkdir(exist_ok=True)
    for i in range(count):
        _picture(i).save(root / f"{i}.jpg", quality=95)
    return root


def _picture(i: int) -> Image.Image:
    pixels = np.full((40, 50, 3), 30 + i, np.uint8)
    pixels[10:25, 10 + i : 30] = (200, 40 * i % 256, 90)
    return Image.fromarray(pixels)


def _with(name: str, contents: bytes, count: int = 3) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (photos(folder, count) / name).write_bytes(contents)

    return prepare


def _truncated(folder: Path) -> None:
    file = photos(folder) / "1.jpg"
    file.write_bytes(file.read_bytes()[:400])


def _truncated_png(folder: Path) -> None:
    file = photos(folder) / "3.png"
    _picture(3).save(file)
    file.write_bytes(file.read_bytes()[:-60])


def _tiny(folder: Path) -> None:
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(photos(folder) / "dot.png")


def _bomb() -> bytes:
    """A PNG of a few bytes whose header says 60,000 × 60,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def _links(folder: Path) -> None:
    root = photos(folder)
    (root / "gone.jpg").symlink_to("nowhere.jpg")
    (root / "loop.jpg").symlink_to("loop.jpg")


def _latin1(folder: Path) -> None:
    root = photos(folder)
    (root / "0.jpg").rename(Path(str(root) + "/" + b"M\xfcnchen.jpg".decode("utf-8", "surrogateescape")))


def _plain(folder: Path) -> None:
    root = folder / "photos"
    root.mkdir()
    for i in range(3):
        Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(root / f"{i}.png")


def voc(folder: Path, split: str = "train\nval") -> Path:
    """Makes a VOC of four images, two a split."""
    root = folder / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for i in range(4):
        _picture(i).save(root / "JPEGImages" / f"2007_{i}.jpg", quality=95)
        labels = np.zeros((40, 50), np.uint8)
        labels[10:25, 10:30] = 1 + i
        Image.fromarray(labels).save(root / "SegmentationClass" / f"2007_{i}.png")
    for start, name in enumerate(split.split()):
        (root / "ImageSets/Segmentation" / f"{name}.txt").write_text(f"2007_{2 * start}\n2007_{2 * start + 1}\n")
    return root


def _voc(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        change(voc(folder))

    return prepare


def _mask(values: np.ndarray) -> Callable[[Path], None]:
    return _voc(lambda root: Image.fromarray(values).save(root / "SegmentationClass" / "2007_3.png"))


def _case(mistake: str, recipe: str, prepare: Callable[[Path], object] | None = None, more: str = "", code: int = 1) -> Case:
    command = f"mdp run mine.yaml --plugin toy.py --no-track {more}".strip()
    return Case(mistake, command, {"mine.yaml": recipe, "toy.py": TOY}, prepare, code=code)  # type: ignore[arg-type]


def _strict(mistake: str, prepare: Callable[[Path], object]) -> Case:
    return _case(mistake, _FOLDER, prepare, "--set data.on_bad_image=error")


IMAGES: list[Case] = [
    _case("no such folder", _FOLDER.replace("photos}", "fotos}"), photos),
    _case("a file in place of a folder", _FOLDER.replace("root: photos", "root: photos/0.jpg"), photos),
    _case("an empty folder", _FOLDER, lambda folder: (folder / "photos").mkdir()),
    _case("a folder with other files only", _FOLDER, _with("notes.txt", b"to do", 0)),
    _case("a split that there is not", _FOLDER.replace("root: photos", "root: photos, train: train"), photos, code=2),
    _case("images that cannot be read, all of them", _FOLDER, _with("a.jpg", b"not an image", 0)),
    _case("a JPEG that is cut off (a warning)", _FOLDER, _truncated, "--until prior", 0),
    _strict("a JPEG that is cut off, with `on_bad_image: error`", _truncated),
    _strict("a PNG that is cut off", _truncated_png),
    _strict("a text that is named .jpg", _with("notes.jpg", b"to do: find photographs\n")),
    _strict("a web page that is named .jpg", _with("page.jpg", b"<!DOCTYPE html><title>404</title>")),
    _strict("an image of no bytes", _with("empty.png", b"")),
    _strict("an image of one pixel", _tiny),
    _strict("an image whose header claims 60,000 × 60,000 pixels", _with("huge.png", _bomb())),
    _strict("links that lead nowhere, and to themselves", _links),
    _case("a file name that is not UTF-8", _FOLDER, _latin1),
    _case("images in which the prior finds nothing", _FOLDER, _plain),
]

LABELS: list[Case] = [
    _case("VOC: a folder that holds no VOC", _VOC, lambda folder: (folder / "VOCdevkit" / "VOC2007").mkdir(parents=True)),
    _case("VOC: another year than the one there", _VOC.replace("root:", "year: 2007, root:"), voc),
    _case("VOC: no lists", _VOC, _voc(lambda root: [f.unlink() for f in (root / "ImageSets/Segmentation").iterdir()])),
    _case("VOC: a split that is mistyped", _VOC.replace("train: train", "train: trian"), voc),
    _case("VOC: the list of SBD is not there", _VOC.replace("train: train", "train: trainaug"), voc),
    _case("VOC: an empty list", _VOC, _voc(lambda root: (root / "ImageSets/Segmentation/train.txt").write_text("\n"))),
    _case(
        "VOC: a list that is no text",
        _VOC,
        _voc(lambda root: (root / "ImageSets/Segmentation/train.txt").write_bytes(b"\xff\xd8")),
    ),
    _case(
        "VOC: a list of images that are not there",
        _VOC,
        _voc(lambda root: (root / "ImageSets/Segmentation/train.txt").write_text("2008_1\n2008_2\n")),
    ),
    _case(
        "VOC: some listed images are not there (a warning)",
        _VOC,
        _voc(lambda root: (root / "JPEGImages/2007_1.jpg").unlink()),
        "--until prior",
        0,
    ),
    _case(
        "VOC: no labels for the split that is evaluated (a warning)",
        _VOC,
        _voc(lambda root: [(root / "SegmentationClass" / f"2007_{i}.png").unlink() for i in (2, 3)]),
        "--until prior",
        0,
    ),
    _case("VOC: labels of another size than the image", _VOC, _mask(np.zeros((20, 25), np.uint8))),
    _case("VOC: labels with a class that there is not", _VOC, _mask(np.full((40, 50), 77, np.uint8))),
    _case("VOC: labels as colours, without a palette", _VOC, _mask(np.zeros((40, 50, 3), np.uint8))),
    _case(
        "VOC: a file of labels that is cut off",
        _VOC,
        _voc(lambda root: (root / "SegmentationClass/2007_3.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")),
    ),
]
