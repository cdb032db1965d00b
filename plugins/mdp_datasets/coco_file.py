"""CocoFile: annotations in the format of COCO's ``instances_*.json`` (Lin et al., 2014), read once and kept small.

The list of images and categories is read without the annotations, which in COCO's train2017 are 450 MB; those follow when the first
ground truth is asked for. Polygons are packed while the file is parsed: as Python's numbers they would take several gigabytes.
"""

from __future__ import annotations

import gc
import json
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mdp_core.api import DataError

_HINT = "a COCO file has the lists images, annotations and categories, as instances_val2017.json has"


class CocoImage(NamedTuple):
    """An entry of ``images``: its number, file name, and size in pixels (0 where the file does not say)."""

    id: Any
    file_name: str
    height: int
    width: int


class CocoObject(NamedTuple):
    """An entry of ``annotations``; the segmentation is packed polygons or run lengths, as they stand in the file."""

    id: Any
    image_id: Any
    category_id: Any
    crowd: bool
    segmentation: Any
    bbox: tuple[float, ...] | None


@dataclass(frozen=True)
class Listing:
    """What a file is about.

    Attributes:
        images: File name → image, sorted by file name.
        categories: Number → name, sorted by number.
    """

    images: Mapping[str, CocoImage]
    categories: Mapping[int, str]


@lru_cache(maxsize=8)
def _opened(path: Path, _size: int, _changed: int) -> CocoFile:
    return CocoFile(path)


def coco_file(path: Path) -> CocoFile:
    """Returns the annotations of a file, which a process reads once.

    Raises:
        DataError: There is no such file.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})", hint=_HINT) from error
    return _opened(path, status.st_size, status.st_mtime_ns)


class CocoFile:
    """One file of annotations.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def listing(self) -> Listing:
        """Images and categories.

        Raises:
            DataError: The file is damaged or no COCO file, or lists an image twice.
        """
        text = self._text()
        images, categories = _section(text, "images", CocoImage), _section(text, "categories", dict, last=True)
        whole = text.rstrip().endswith("}") and '"annotations"' in text
        return self._listing(images, categories) if whole and images and categories else self._everything[0]

    def objects(self, image: CocoImage) -> tuple[CocoObject, ...]:
        """Returns the annotations of an image, crowds among them, in the order of the file.

        Raises:
            DataError: The file is damaged, or an annotation has no image or no category.
        """
        return self._everything[1].get(image.id, ())

    @cached_property
    def _everything(self) -> tuple[Listing, dict[Any, tuple[CocoObject, ...]]]:
        with _collector_paused():
            parsed = self._parsed()
            for name in ("images", "annotations", "categories"):
                if not isinstance(parsed.get(name), list):
                    raise DataError(f"{self.path}: it has no list '{name}'", hint=_HINT)
            listing = self._listing(parsed["images"], parsed["categories"])
            known = {image.id for image in listing.images.values()}
            found: dict[Any, list[CocoObject]] = {}
            for item in parsed["annotations"]:
                found.setdefault(self._checked(item, known, listing).image_id, []).append(item)
        return listing, {image: tuple(items) for image, items in found.items()}

    def _parsed(self) -> dict[str, Any]:
        try:
            parsed = json.loads(self._text(), object_hook=_packed)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{self.path}: is no JSON, or is cut off ({error})",
                hint="unpack or download it again; mend it if it is your own",
            ) from error
        if not isinstance(parsed, dict):
            raise DataError(f"{self.path}: holds a list, not annotations of images", hint=_HINT)
        return parsed

    def _listing(self, images: Sequence[Any], categories: Sequence[Any]) -> Listing:
        by_name: dict[str, CocoImage] = {}
        numbers: set[Any] = set()
        for image in images:
            if not isinstance(image, CocoImage) or not _usable(image):
                raise DataError(f"{self.path}: an image without id, file_name or a proper size: {_short(image)}", hint=_HINT)
            if image.file_name in by_name or image.id in numbers:
                raise DataError(
                    f"{self.path}: lists an image twice: {image.file_name}, id {image.id}",
                    hint="each needs a name and an id of its own",
                )
            by_name[image.file_name] = image
            numbers.add(image.id)
        names: dict[int, str] = {}
        for category in categories:
            number, name = (category.get("id"), category.get("name")) if isinstance(category, dict) else (None, None)
            if type(number) is not int or not isinstance(name, str) or number in names:
                raise DataError(f"{self.path}: a category without id or name, or twice: {_short(category)}", hint=_HINT)
            names[number] = name
        if not names:
            raise DataError(f"{self.path}: has no categories", hint=_HINT)
        return Listing(dict(sorted(by_name.items())), dict(sorted(names.items())))

    def _checked(self, item: Any, known: set[Any], listing: Listing) -> CocoObject:
        if not isinstance(item, CocoObject):
            raise DataError(f"{self.path}: an annotation without image_id or category_id: {_short(item)}", hint=_HINT)
        where = f"{self.path}: annotation {item.id}"
        if item.image_id not in known:
            raise DataError(f"{where} is of image {item.image_id}, which the file does not list", hint=_HINT)
        if item.category_id not in listing.categories:
            raise DataError(f"{where} is of category {item.category_id}, which the file does not list", hint=_HINT)
        return item

    def _text(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise DataError(f"{self.path}: cannot be read as annotations ({reason})", hint=_HINT) from error


def _section(text: str, name: str, kind: type, *, last: bool = False) -> list[Any] | None:
    """Returns the first (or last) list named ``name`` whose items are of a kind; None where there is none."""
    decode: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder(object_hook=_packed).raw_decode
    mark = re.compile(rf'"{name}"\s*:\s*(?=\[)')
    start = mark.match(text, text.rfind(f'"{name}"')) if last else mark.search(text)
    if start is None:
        return None
    try:
        found = decode(text, start.end())[0]
    except (ValueError, RecursionError):
        return None
    return found if all(isinstance(item, kind) for item in found) else None


def _packed(found: dict[str, Any]) -> Any:
    """Makes small objects of what there are hundreds of thousands of, as soon as it is parsed; leaves the rest as it is."""
    if "image_id" in found and "category_id" in found:
        box = found.get("bbox")
        return CocoObject(
            found.get("id"),
            _key(found["image_id"]),
            _key(found["category_id"]),
            bool(found.get("iscrowd")),
            _packed_mask(found.get("segmentation")),
            tuple(box) if isinstance(box, list) else box,
        )
    if "file_name" in found and "id" in found and "image_id" not in found:
        return CocoImage(_key(found["id"]), found["file_name"], found.get("height") or 0, found.get("width") or 0)
    return found


def _key(value: Any) -> Any:
    """Returns a number or text that others refer to; anything else becomes its text, so that it can be looked up at all."""
    return value if isinstance(value, int | str) else str(value)


def _packed_mask(segmentation: Any) -> Any:
    try:
        if isinstance(segmentation, list):
            return [array("d", points) for points in segmentation]
        if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), list):
            return {**segmentation, "counts": array("q", segmentation["counts"])}
    except (TypeError, OverflowError):
        return "no numbers"
    return segmentation


def _usable(image: CocoImage) -> bool:
    name = image.file_name
    if not isinstance(name, str) or not name or name.startswith("/") or ".." in PurePosixPath(name).parts:
        return False
    return all(type(side) is int and side >= 0 for side in (image.height, image.width))


def _short(item: Any) -> str:
    text = repr(tuple(item) if isinstance(item, CocoImage | CocoObject) else item)
    return text if len(text) <= 120 else f"{text[:119]}…"


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Python's search for cycles is half of the time where millions of small objects are made, all to stay."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
