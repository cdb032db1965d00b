"""The store: one folder a step's result, named by its key; complete when its manifest is there and its hashes hold.

``store/<stage kind>-<step>/<key>/``::

    key.json            the payload that the key was made of
    parts/00000.parquet parts of a map step, each with 00000.json (sha256, bytes), written after the part
    result/             the folder of a fit
    work/               scratch of a fit; removed at the end
    manifest.json       written last
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdp_core.data.storage import label_map_name, write_json
from mdp_core.engine.keys import FORMAT
from mdp_core.errors import StoreError
from mdp_core.settings import file_sha256

GC_LOCK = "gc.lock"
"""Lock file under the store's root; see ``Store.registering``."""


@dataclass(frozen=True)
class Manifest:
    """What is known of a complete result.

    Attributes:
        files: Path inside the entry (a part or a fit's result) → sha256.
        notes: Facts for the record: sha256 of weights, device …
        seconds: How long making it took.
        clusters: Number of clusters that the labels of the result come from; 0 where labels mean nothing yet.
        images: How many images were done in these ``seconds`` (fewer than the result holds, where parts were there already); 0
            where that is not known or means nothing.
    """

    files: Mapping[str, str]
    notes: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    seconds: float = 0.0
    clusters: int = 0
    images: int = 0
    peak_memory: int = 0


@dataclass(frozen=True)
class Entry:
    """One result of the store, there or not."""

    folder: Path
    payload: Mapping[str, Any]

    @property
    def parts(self) -> Path:
        """Folder of a map step's parts."""
        return self.folder / "parts"

    @property
    def result(self) -> Path:
        """Folder of a fit's result."""
        return self.folder / "result"

    @property
    def work(self) -> Path:
        """Scratch folder of a fit."""
        return self.folder / "work"

    @property
    def lock(self) -> Path:
        """Lock file: whoever writes here holds it."""
        return self.folder.with_name(f"{self.folder.name}.lock")

    def part_files(self) -> list[Path]:
        """Returns the parts in order of the shards: of a complete result those that its manifest names, whatever else lies there."""
        manifest = self.manifest()
        if manifest is not None:
            return [self.folder / name for name in sorted(manifest.files) if name.startswith("parts/")]
        return sorted(p for p in self.parts.iterdir() if not p.name.startswith(".") and p.suffix != ".json")

    def shard_size(self) -> int | None:
        """Returns how many images a part holds, or None before the first part."""
        content = read_json(self.folder / "shards.json")
        return None if content is None else int(content["size"])

    def label_maps(self, ids: Sequence[str]) -> list[Path]:
        """Returns the files of the label maps of all images, given their ids in order."""
        parts, size = self.part_files(), self.shard_size() or 1
        return [parts[index // size] / label_map_name(image_id) for index, image_id in enumerate(ids)]

    def manifest(self) -> Manifest | None:
        """Returns the manifest, or None where the result is not complete."""
        content = read_json(self.folder / "manifest.json")
        if content is None or content.get("format") != FORMAT:
            return None
        return Manifest(
            content["files"], content["notes"], tuple(content["warnings"]), content["seconds"], content["clusters"],
            content.get("images", 0), content.get("peak_memory", 0),
        )  # fmt: skip

    def damage(self) -> list[str]:
        """Returns the files of a complete result that are missing or whose contents changed."""
        manifest = self.manifest()
        if manifest is None:
            return []
        return [name for name, sha in manifest.files.items() if contents_sha256(self.folder / name) != sha]

    def begin(self) -> None:
        """Makes the folder and writes down what the key was made of."""
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "key.json").is_file():
                write_json(self.folder / "key.json", self.payload)

    def finished_part(self, name: str) -> bool:
        """Tells whether a part is there, whole and unchanged; otherwise removes what is left of it."""
        stamp = read_json(self.parts / f"{Path(name).stem}.json")
        path = self.parts / name
        if stamp is not None and stamp.get("name") == name and contents_sha256(path) == stamp.get("sha256"):
            return True
        (self.parts / f"{Path(name).stem}.json").unlink(missing_ok=True)
        remove(path)
        return False

    def stamp_part(self, name: str) -> None:
        """Marks a part as whole."""
        write_json(self.parts / f"{Path(name).stem}.json", {"name": name, "sha256": contents_sha256(self.parts / name)})

    def finish(self, names: Sequence[str], manifest: Manifest) -> None:
        """Writes the manifest over the named files or folders (relative to the entry): from now on the step is a hit."""
        files = {name: contents_sha256(self.folder / name) for name in names}
        write_json(
            self.folder / "manifest.json",
            {
                "format": FORMAT,
                "files": files,
                "notes": dict(manifest.notes),
                "warnings": list(manifest.warnings),
                "seconds": round(manifest.seconds, 3),
                "clusters": manifest.clusters,
                "images": manifest.images,
                "peak_memory": manifest.peak_memory,
            },
        )

    def reopen(self) -> None:
        """Makes a damaged result incomplete again; parts that are whole stay."""
        (self.folder / "manifest.json").unlink(missing_ok=True)
        remove(self.result)

    def sweep(self) -> None:
        """Removes half-written files that a killed process left; call it with the lock held."""
        for leftover in [*self.folder.glob(".*.tmp"), *self.parts.glob(".*.tmp")]:
            remove(leftover)


class Store:
    """All results under ``home/store``.

    Args:
        home: MDP_HOME.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.root = home / "store"

    @contextmanager
    def registering(self) -> Iterator[None]:
        """Held while a run writes down for the first time which results it will look for.

        Garbage collection holds the same lock for itself alone while it decides what to remove: whatever a run judges to be a hit
        afterwards is either gone already, or stands in the run's record and is kept.
        """
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Held while garbage is told from results that are in use, and moved out of the way."""
        with self._locked(fcntl.LOCK_EX):
            yield

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / GC_LOCK).open("a")
        with file:  # closing it gives the lock back
            fcntl.flock(file, how)
            yield

    def entry(self, kind: str, step: str, key: str, payload: Mapping[str, Any]) -> Entry:
        """Returns the place of a step's result."""
        return Entry(self.root / f"{kind}-{step}" / key, payload)


def contents_sha256(path: Path) -> str | None:
    """Returns the sha256 of a file, or of a folder's names and contents; None where there is nothing."""
    if path.is_file():
        return file_sha256(path)
    if not path.is_dir():
        return None
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(f"{file.relative_to(path).as_posix()}\0{file_sha256(file)}\n".encode())
    return total.hexdigest()


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _concerns(error: OSError, path: Path) -> bool:
    """Whether an error is about ``path``, what lies beside or below it, or a folder above it; not about a person's image."""
    if error.filename is None:
        return True
    about = Path(os.fsdecode(error.filename)).absolute()
    return about.is_relative_to(path.parent) or path.is_relative_to(about)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns errors of the disk into a message that says what to do.

    Raises:
        StoreError: No space left, no permission, a read-only file system.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"no space left on the disk of {path}",
                hint="what is finished is kept: free some space, or move MDP_HOME to a larger disk, and run the same command again",
            ) from error
        refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
        if refused and _concerns(error, path):
            raise StoreError(
                f"{path} cannot be written ({error.strerror})", hint="set MDP_HOME to a folder of your own"
            ) from error
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """Reads a JSON object; None where the file is missing or cut off."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError, NotADirectoryError):
        return None
    return content if isinstance(content, dict) else None
