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
        found = {path.relative_to(root).as_posix(): path for path in _images(root, (root.resolve(),))}
        if not found:
            raise DataError(
                f"{root}: no images in this folder or below it",
                hint=f"data.root needs files that end in {', '.join(sorted(IMAGE_SUFFIXES))} (upper or lower case)",
            )
        for name in sorted(found):
            yield Source(id=name, path=found[name])


def _images(folder: Path, parents: tuple[Path, ...]) -> Iterator[Path]:
    """Yields the images below ``folder``; ``parents`` are the real folders on the way to it, itself last."""
    try:
        paths = [Path(entry.path) for entry in os.scandir(folder) if not entry.name.startswith(".")]
        entries = [(path, path.is_dir()) for path in paths]
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be listed ({error.strerror})", hint="make the folder readable, or move it out of data.root"
        ) from error
    for path, is_folder in entries:
        if is_folder:
            real = path.resolve()
            if not any(parent.is_relative_to(real) for parent in parents):
                yield from _images(path, (*parents, real))
        elif path.suffix.lower() in IMAGE_SUFFIXES and (path.is_file() or path.is_symlink()):
            _check_name(path)
            yield path


def _check_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{os.fsencode(path)!r}: the name is not valid UTF-8", hint="rename it: names are written to tables and reports"
        ) from error
