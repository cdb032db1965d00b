"""Where COCO keeps what: split → folder of images and file of annotations; lines of a list → file names."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mdp_core.api import IMAGE_SUFFIXES, DataError
from mdp_datasets.places import existing_folder, unknown_split
from mdp_datasets.settings import CocoConfig

_YEAR = re.compile(r"^COCO_(train|val)2014_(?=\d{12}\.)")
"""COCO 2017 has the images of 2014 under shorter names."""


@dataclass(frozen=True)
class Place:
    """Where the images of a split lie, and their annotations; None where it has none."""

    images: Path
    annotations: Path | None


def place_of(config: CocoConfig, split: str) -> Place:
    """Resolves a split.

    Raises:
        DataError: There is no folder of its images; or no file of annotations where one is named, or to be evaluated with.
    """
    root = existing_folder(config.root)
    return Place(_images(config, root, split), _annotations(config, root, split))


def _images(config: CocoConfig, root: Path, split: str) -> Path:
    written = config.images.get(split)
    if written is not None:
        folder = root / written.expanduser()
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder (data.images, split {split})", hint="relative paths start at data.root")
        return folder
    parents = (root, root / "images")
    there = {name: parent / name for parent in reversed(parents) for name in _folders(parent)}
    if split not in there:
        names = sorted({*there, *config.images} - {"annotations", "images"})
        raise unknown_split(split, names, str(root), hint="or name its folder: data.images: {" + split + ": FOLDER}")
    return there[split]


def _annotations(config: CocoConfig, root: Path, split: str) -> Path | None:
    written = config.annotations.get(split)
    path = root / "annotations" / f"instances_{split}.json" if written is None else root / written.expanduser()
    if path.is_file():
        return path
    if written is not None:
        raise DataError(f"{path}: no such file (data.annotations, split {split})", hint="relative paths start at data.root")
    if split == config.eval:
        folder = root / "annotations"
        there = ", ".join(sorted(f.name for f in folder.glob("*.json"))) if folder.is_dir() else ""
        raise DataError(
            f"{path}: no annotations to evaluate with, split {split}",
            hint=f"put the file there ({folder.name} holds: {there or 'nothing'}), name another (data.annotations: "
            f"{{{split}: FILE}}), or set data.eval: null",
        )
    return None


def _folders(parent: Path) -> list[str]:
    if not parent.is_dir():
        return []
    return [entry.name for entry in os.scandir(parent) if entry.is_dir() and not entry.name.startswith(".")]


def files_in(folder: Path) -> list[str]:
    """Returns the names of the images in a folder, sorted.

    Raises:
        DataError: It cannot be listed.
    """
    try:
        names = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})", hint="make the folder readable") from error
    return sorted(name for name in names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES)


def chosen(lines: Collection[str], names: Mapping[str, object] | Collection[str]) -> tuple[list[str], list[str]]:
    """Finds the images that a list names.

    A line may have folders before the name (``train2014/COCO_train2014_000000000009.jpg``), no suffix, or the name that COCO 2014 had
    for an image of COCO 2017.

    Args:
        lines: The list.
        names: File names of the images there are.

    Returns:
        The names found, sorted, each once; and the lines that name no image.
    """
    stems = {os.path.splitext(name)[0]: name for name in names}
    found: set[str] = set()
    missing: list[str] = []
    for line in lines:
        name = next((stems.get(n, n) for n in _spellings(line) if n in names or n in stems), None)
        if name is None:
            missing.append(line)
        else:
            found.add(name)
    return sorted(found), missing


def _spellings(line: str) -> Iterator[str]:
    parts = PurePosixPath(line).parts
    for start in range(len(parts)):
        yield "/".join(parts[start:])
    if parts and (short := _YEAR.sub("", parts[-1])) != parts[-1]:
        yield short
