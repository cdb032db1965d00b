"""Scan: opens every image of a split once, lists the bad ones, and fingerprints the rest by their contents.

What was learned of a file is kept under ``store/scans`` and believed as long as the file's size and the times of its contents and
of its inode stay the same (as git does for its index); the fingerprint itself never holds a time or a path.

The memory of a set of folders is one file, written whole under another name and renamed::

    {"format": 2, "folders": {FOLDER: [[NAME, [SIZE, MTIME, CTIME], SHA256, HEIGHT, WIDTH, PROBLEM], …], …}}
"""

from __future__ import annotations

import gc
import json
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mdp_core.data.images import ImageRecord, read_image
from mdp_core.data.storage import write_text
from mdp_core.engine.keys import FORMAT, digest
from mdp_core.engine.store import disk_errors, read_json
from mdp_core.errors import DataError, MdpError, PluginError
from mdp_core.settings import file_sha256
from mdp_core.stages.dataset import Dataset, DatasetConfig, Source

MEMORY_FORMAT = 2
"""Version of the memory's files; one of another version is forgotten."""
_SAVE_SECONDS = 30.0
"""How often what was learned is written down while many files are opened: an interrupted first scan goes on there."""
_BATCH = 256
"""Files that are opened before looking whether it is time to write."""


@dataclass(frozen=True)
class BadImage:
    """An image that cannot be used, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class ImageSet:
    """The images of one role of a run.

    Attributes:
        split: Name of the split.
        records: The good images, in the dataset's order.
        bad: The others.
        fingerprint: Stands for the ids and the contents of the images.
        truth_fingerprint: Stands for the contents of their ground truth; None where there is none.
    """

    split: str
    records: tuple[ImageRecord, ...]
    bad: tuple[BadImage, ...]
    fingerprint: str
    truth_fingerprint: str | None


Stamp = tuple[int, int, int]
"""Size in bytes, and the times of contents and inode in nanoseconds: while they stay, a file is taken to be the same."""
_GONE: Stamp = (-1, -1, -1)


class _Facts(NamedTuple):
    """What is known of one image file: its contents, its size in pixels, or why it is bad."""

    stamp: Stamp
    sha256: str = ""
    height: int = 0
    width: int = 0
    problem: str = ""


Progress = Callable[[int, int], None]
Image = tuple[str, str | None]
"""Id and path of an image."""


class Scanner:
    """Scans splits, remembering files between runs.

    Args:
        memory: Folder of the remembered facts (``store/scans``).
        progress: Told (done, total) of the files that have to be opened.
    """

    def __init__(self, memory: Path, progress: Progress = lambda done, total: None) -> None:
        self._memory = memory
        self._progress = progress

    def scan(self, dataset: Dataset[DatasetConfig], plugin: str, split: str, *, without: Set[Image] = frozenset()) -> ImageSet:
        """Scans one split.

        Args:
            dataset: The dataset.
            plugin: Its name and version, as they stand in keys.
            split: The split.
            without: Images to leave out: those of another split that this one adds to.

        Raises:
            DataError: No images at all, two of one id, or a bad image where the recipe says ``on_bad_image: error``.
        """
        listed = _listed(dataset, split)
        sources = [source for source in listed if (source.id, source.path and str(source.path)) not in without]
        if listed and not sources:
            raise DataError(
                f"data.support: every image of split {split!r} is in the training split too", hint="leave data.support out"
            )
        _check_ids(sources)
        facts = self._facts([s.path for s in sources if s.path is not None])
        truths = self._facts([t for s in sources for t in s.truth], as_image=False)
        with _collector_paused():
            return _image_set(dataset, plugin, split, sources, facts, truths)

    def _facts(self, paths: Iterable[Path], *, as_image: bool = True) -> dict[str, _Facts]:
        names = list(dict.fromkeys(map(str, paths)))
        if not names:
            return {}
        folders = digest([MEMORY_FORMAT, *sorted({os.path.dirname(n) for n in names})])
        memory = self._memory / f"{'images' if as_image else 'truth'}-{folders}.json"
        with _collector_paused():
            known = _remembered(memory)
        stamps = {name: _stamp(name) for name in names}
        fresh = [n for n in names if stamps[n] == _GONE or (found := known.get(n)) is None or found.stamp != stamps[n]]
        if fresh:
            self._learn(fresh, stamps, known, memory, _look_at_image if as_image else _look_at_file)
        return known

    def _learn(
        self, fresh: Sequence[str], stamps: Mapping[str, Stamp], known: dict[str, _Facts], memory: Path, look: _Look
    ) -> None:
        """Opens files and writes down what was learned, now and then and however it ends."""
        pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
        done, saved, pending = 0, time.monotonic(), iter(fresh)
        try:
            while batch := list(islice(pending, _BATCH)):
                for name, found in zip(batch, pool.map(look, batch, [stamps[n] for n in batch]), strict=True):
                    known[name] = found
                    done += 1
                    self._progress(done, len(fresh))
                if time.monotonic() - saved > _SAVE_SECONDS:
                    _remember(memory, known)
                    saved = time.monotonic()
        finally:
            pool.shutdown(cancel_futures=True)
            if done:
                _remember(memory, known)


def _image_set(
    dataset: Dataset[DatasetConfig],
    plugin: str,
    split: str,
    sources: Sequence[Source],
    facts: Mapping[str, _Facts],
    truths: Mapping[str, _Facts],
) -> ImageSet:
    """Tells good images from bad ones and fingerprints the good."""
    config = dataset.config
    records: list[ImageRecord] = []
    contents: list[str] = []
    truth_contents: list[str] = []
    bad: list[BadImage] = []
    for source in sources:
        found = _judge(source, facts, config.min_side)
        if isinstance(found, BadImage):
            bad.append(found)
            continue
        record, content = found
        records.append(record)
        contents.append(content)
        truth_contents.append(" ".join(truths[str(t)].sha256 for t in source.truth) or (source.content or ""))
    _judge_all(split, records, bad, config)
    identity = [FORMAT, plugin, [[r.id, r.height, r.width, c] for r, c in zip(records, contents, strict=True)]]
    has_truth = bool(dataset.class_names) and any(truth_contents)
    truth = digest([plugin, dataset.class_names, truth_contents]) if has_truth else None
    return ImageSet(split, tuple(records), tuple(bad), digest(identity), truth)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Python's search for cycles costs a third of the time where hundreds of thousands of small objects are made, all to stay."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


_Look = Callable[[str, Stamp], _Facts]


def remembered_folders(memory: Path) -> list[str] | None:
    """Returns the folders whose files a memory is about; None where it cannot be read."""
    content = read_json(memory)
    if content is None or content.get("format") != MEMORY_FORMAT or not isinstance(content.get("folders"), dict):
        return None
    return list(content["folders"])


def _remembered(memory: Path) -> dict[str, _Facts]:
    """Reads a memory; one that is damaged or of another version is no memory."""
    content: Mapping[str, Any] = read_json(memory) or {}
    if content.get("format") != MEMORY_FORMAT:
        return {}
    try:
        return {
            os.path.join(folder, name): _Facts((stamp[0], stamp[1], stamp[2]), sha256, height, width, problem)
            for folder, rows in content["folders"].items()
            for name, stamp, sha256, height, width, problem in rows
        }
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return {}


def _remember(memory: Path, known: Mapping[str, _Facts]) -> None:
    folders: dict[str, list[tuple[Any, ...]]] = {}
    for path, facts in known.items():
        folder, name = os.path.split(path)
        folders.setdefault(folder, []).append((name, *facts))
    with disk_errors(memory):
        write_text(memory, json.dumps({"format": MEMORY_FORMAT, "folders": folders}, separators=(",", ":")))


def _stamp(name: str) -> Stamp:
    try:
        status = os.stat(name)
    except OSError:
        return _GONE
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _look_at_file(name: str, stamp: Stamp) -> _Facts:
    try:
        return _Facts(stamp, sha256=file_sha256(Path(name)))
    except OSError as error:
        raise DataError(f"{name}: ground truth cannot be read ({error.strerror})") from error


def _look_at_image(name: str, stamp: Stamp) -> _Facts:
    """Decodes the whole image: a truncated file shows only then."""
    try:
        pixels = read_image(name)
        return _Facts(stamp, file_sha256(Path(name)), pixels.shape[0], pixels.shape[1])
    except (DataError, OSError) as error:
        return _Facts(stamp, problem=str(error))


def _listed(dataset: Dataset[DatasetConfig], split: str) -> list[Source]:
    """Lists a split; what a plugin raises that is not for people becomes an error that names its place."""
    try:
        sources = list(dataset.sources(split))
    except MdpError:
        raise
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise PluginError(
            f"{type(dataset).__name__}.sources({split!r}) crashed: {type(error).__name__}: {error}",
            hint=f"at {at.filename}:{at.lineno}, in {at.name}",
        ) from error
    for source in sources:
        if not (isinstance(source, Source) and isinstance(source.id, str)):
            raise PluginError(
                f"{type(dataset).__name__}.sources({split!r}) yielded {source!r}",
                hint="it yields Source, each with a text as id",
            )
    return sources


def _check_ids(sources: Sequence[Source]) -> None:
    seen: set[str] = set()
    for source in sources:
        if source.id in seen:
            raise DataError(f"two images have the id {source.id!r}", hint="ids must be unique within a split")
        if not source.id or source.id.startswith("/") or (".." in source.id and ".." in source.id.split("/")):
            raise DataError(f"{source.id!r} cannot be an image id", hint="an id is a relative path without '..'")
        seen.add(source.id)


def _judge(source: Source, facts: Mapping[str, _Facts], min_side: int) -> tuple[ImageRecord, str] | BadImage:
    if source.path is None:
        if source.size is None or source.content is None:
            raise DataError(f"{source.id}: a generated image needs size and content")
        height, width, content, path = *source.size, source.content, None
    else:
        known = facts[str(source.path)]
        if known.problem:
            return BadImage(source.id, known.problem)
        height, width, content, path = known.height, known.width, f"{known.sha256} {source.content or ''}", str(source.path)
    if min(height, width) < min_side:
        where = path or source.id
        return BadImage(source.id, f"{where}: {width}×{height} px is too small, a side must have {min_side} px (data.min_side)")
    return ImageRecord(source.id, height, width, path), content


def _judge_all(split: str, records: Sequence[ImageRecord], bad: Sequence[BadImage], config: DatasetConfig) -> None:
    listed = "\n".join(f"  {b.reason}" for b in bad[:10]) + (f"\n  … and {len(bad) - 10} more" if len(bad) > 10 else "")
    if bad and config.on_bad_image == "error":
        raise DataError(
            f"{len(bad)} of {len(bad) + len(records)} images of split {split!r} cannot be used:\n{listed}",
            hint="mend or remove them, or set data.on_bad_image: skip",
        )
    if not records:
        why = f", all {len(bad)} are bad:\n{listed}" if bad else ""
        raise DataError(f"split {split!r} has no images{why}", hint="point data.root at a folder with images")
