"""Folder: any folder of images, without ground truth."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mdp_core.api import IMAGE_SUFFIXES, DataError, Dataset, Source
from mdp_datasets.places import existing_folder, unknown_split
from mdp_datasets.settings import FolderConfig


class Folder(Dataset[FolderConfig]):
    """All images below a folder, in the order of their relative POSIX paths, which are also their ids.

    Hidden files and folders (names with a leading dot) are left out. A link to a folder is followed unless it leads to a
    folder that it lies in. A file that only looks like an image is found by the engine, as ``on_bad_image`` says.
    """

    Config = FolderConfig

    def sources(self, split: str) -> Iterator[Source]:
        """Yields the images.

        Raises:
            DataError: The split is not ``all``; or the folder is missing, is a file, cannot be read or holds no images.
        """
        root = existing_folder(self.config.root)
        if split != "all":
            raise unknown_split(split, ["all"], str(root))
        found = dict(_images(root, "", (root.resolve(),)))
        if not found:
            raise DataError(
                f"{root}: no images in this folder or below it",
                hint=f"data.root needs files that end in {', '.join(sorted(IMAGE_SUFFIXES))} (upper or lower case)",
            )
        for name in sorted(found):
            yield Source(id=name, path=found[name])


def _images(folder: Path, prefix: str, parents: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    """Yields (path below the root, file) of the images in ``folder``; ``parents`` are the real folders on the way, itself last."""
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be listed ({error.strerror})", hint="make the folder readable, or move it out of data.root"
        ) from error
    for entry in entries:
        path = Path(entry.path)
        link = entry.is_symlink()
        if path.is_dir() if link else entry.is_dir():  # only links need a look at the disk
            real = path.resolve()
            if not any(parent.is_relative_to(real) for parent in parents):
                yield from _images(path, f"{prefix}{entry.name}/", (*parents, real))
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and (link or entry.is_file()):
            _check_name(path)
            yield prefix + entry.name, path


def _check_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{os.fsencode(path)!r}: the name is not valid UTF-8", hint="rename it: names are written to tables and reports"
        ) from error
