"""Splits of VOC: lists under ImageSets, of one year or several."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mdp_core.api import DataError
from mdp_datasets.lists import read_lines, shipped
from mdp_datasets.places import existing_folder, listed, unknown_split

IMAGES, AUGMENTED = "JPEGImages", "SegmentationClassAug"
_YEAR = re.compile(r"(?:(\d{4}):)?(.*)", re.DOTALL)
_CLASS_LIST = re.compile(r"[a-z]+_(train|val|trainval|test)")
"""Lists of one class under ImageSets/Main: too many to name in a message."""


@dataclass(frozen=True)
class VocImage:
    """An image: its name in the lists, and the folder ``VOC<year>`` it lies in."""

    name: str
    folder: Path

    @property
    def path(self) -> Path:
        """The photograph."""
        return self.folder / IMAGES / f"{self.name}.jpg"


def images_of(root: Path, year: int, split: str) -> list[VocImage]:
    """Returns the images of a split, in the order of its lists, each once.

    Args:
        root: Folder that contains ``VOC<year>``, or that folder.
        year: Year of lists that name none.
        split: Lists joined by ``+``, each ``[YEAR:][FOLDER/]NAME`` with FOLDER below ImageSets, by default Segmentation.

    Raises:
        DataError: A year's folder or a list is missing, a list cannot be read or is empty, or two years have an image of one name.
    """
    found: dict[str, VocImage] = {}
    for part in split.split("+"):
        written, name = _YEAR.fullmatch(part).groups()  # type: ignore[union-attr]  # it matches any text
        for image in _images_of_list(root, int(written or year), year, name):
            first = found.setdefault(image.name, image)
            if first != image:
                raise DataError(
                    f"split {split}: two images are named {image.name}: in {first.folder} and in {image.folder}",
                    hint="join lists of years whose images have different names, as 2007 and 2012",
                )
    return list(found.values())


def _images_of_list(root: Path, year: int, main_year: int, name: str) -> list[VocImage]:
    kind, _, stem = name.rpartition("/")
    kind = kind or "Segmentation"
    if "/" in kind or kind.startswith("."):
        raise DataError(
            f"{root}: no split '{name}'", hint="a list below ImageSets is written FOLDER/NAME, for example Main/trainval"
        )
    folder = year_folder(root, year, main_year, kind)
    lists = folder / "ImageSets" / kind
    prefix = "" if kind == "Segmentation" else f"{kind}/"
    existing = {prefix + file.stem: file for file in sorted(lists.glob("*.txt"))}
    if prefix + stem in existing:
        names = _names(existing[prefix + stem])
    elif year == 2012 and name == "trainaug" and all((folder / part).is_dir() for part in (IMAGES, AUGMENTED)):
        names = shipped("voc2012-trainaug")
    else:
        shown = [there for there in existing if not _CLASS_LIST.fullmatch(Path(there).name)] or list(existing)
        raise unknown_split(name, shown, str(lists), hint=_trainaug_hint(name))
    return [VocImage(image, folder) for image in names]


def year_folder(root: Path, year: int, main_year: int, kind: str = "Segmentation") -> Path:
    """Returns the folder of a year, which has lists of a kind.

    Args:
        root: Folder that contains ``VOC<year>``, or, for ``main_year``, that folder; another year's then lies beside it.
        year: The year wanted.
        main_year: The year of the settings.
        kind: Folder below ImageSets.

    Raises:
        DataError: There is none.
    """
    root = existing_folder(root)
    inner, lists = root / f"VOC{year}", PurePosixPath("ImageSets", kind)
    beside = [root.resolve().parent / inner.name] if re.fullmatch(r"VOC\d{4}", root.resolve().name) else []
    for folder in (inner, *([root] if year == main_year else beside)):
        if (folder / lists).is_dir():
            return folder
    there = listed(sorted(entry.name for entry in root.iterdir()))
    raise DataError(
        f"{root}: neither {inner.name}/{lists} nor {lists} is there",
        hint=f"set data.root to the folder that contains {inner.name} (or to {inner.name} itself); this one holds: {there}",
    )


def _names(path: Path) -> Sequence[str]:
    """Returns the image names of a list, each once.

    A line may also be ``/JPEGImages/X.jpg /SegmentationClassAug/X.png``; lists of one class have 1, 0 or -1 after the name, and -1
    says that the image does not show it.
    """
    lines = [line.split() for line in read_lines(path)]
    names = [PurePosixPath(line[0]).name.removesuffix(".jpg") for line in lines if line[1:] != ["-1"]]
    if not names:
        raise DataError(f"{path}: lists no images", hint="one image name a line, without .jpg")
    return list(dict.fromkeys(names))


def _trainaug_hint(split: str) -> str:
    if not split.startswith("trainaug"):
        return ""
    return (
        f"trainaug is not in the official archive: it comes with {AUGMENTED} (the annotations of SBD); "
        "put its list beside the others, or set data.train: train"
    )
