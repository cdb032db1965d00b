"""Annotations that another program wrote: COCO JSON (Lin et al., 2014), its results format, or one JSON an image, and whose they are."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mdp_core.api import IMAGE_SUFFIXES, Bitmap, DataError, ImageRecord, Instances

Size = tuple[int, int]
_HINT = "expected COCO's {images, annotations}, or a list of {image_id, segmentation} as its results are"


@dataclass(frozen=True)
class Annotations:
    """What a file says of one image.

    Attributes:
        where: The file and the image in it, for messages.
        items: The annotations, as they stand in the file, without crowds.
        size: (height, width) that the file gives for the image, or None.
    """

    where: str
    items: tuple[dict[str, Any], ...]
    size: Size | None = None


def names_of(record: ImageRecord) -> tuple[str, ...]:
    """Returns the names by which an image may be known elsewhere: its id, without suffix, and the last part of both."""
    return tuple(dict.fromkeys(_names(record.id)))


def stem_of(name: str) -> str:
    """Returns a relative path without the suffix of an image, if it has one."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in IMAGE_SUFFIXES else name


def _names(name: str) -> Iterator[str]:
    last = PurePosixPath(name).name
    yield from (name, stem_of(name), last, stem_of(last))


class AnnotationFile:
    """One JSON file about many images.

    Args:
        path: The file.

    Raises:
        DataError: It cannot be read, is damaged, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        parsed = read_json(path)
        listed = parsed if isinstance(parsed, list) else _list(path, parsed, "annotations")
        images = [] if isinstance(parsed, list) else _list(path, parsed, "images", needed=False)
        self._items: dict[str, list[dict[str, Any]]] = {}
        self._sizes: dict[str, Size | None] = {}
        self._by_name: dict[str, set[str]] = {}
        self._nameless: set[str] = set()
        for image in images:
            self._add_image(image)
        for item in listed:
            self._add_item(item, bool(images))

    def of(self, record: ImageRecord) -> Annotations | None:
        """Returns what the file says of an image; None where it does not know it.

        Raises:
            DataError: Several images of the file have its name.
        """
        for name, found in self._candidates(record):
            if len(found) > 1:
                raise DataError(
                    f"{self.path}: image {record.id}: it has {len(found)} images named {name}",
                    hint="give file_name with its folder, as the dataset's ids have it",
                )
            if found:
                key = next(iter(found))
                return Annotations(f"{self.path}: image {record.id}", tuple(self._items.get(key, ())), self._sizes.get(key))
        return None

    def _candidates(self, record: ImageRecord) -> Iterator[tuple[str, set[str]]]:
        names = names_of(record)
        yield from ((name, self._by_name.get(name, set())) for name in names)
        number = str(int(names[-1])) if names[-1].isdecimal() else names[-1]  # 000000000139.jpg is COCO's image 139
        yield from ((name, {name} & self._nameless) for name in (*names, number))

    def _add_image(self, image: Any) -> None:
        if not isinstance(image, dict) or "id" not in image:
            raise DataError(f"{self.path}: an entry of images without id: {short(image)}", hint=_HINT)
        key = str(image["id"])
        if key in self._sizes:
            raise DataError(f"{self.path}: lists image {key} twice", hint="each image needs an id of its own")
        sides = image.get("height"), image.get("width")
        self._sizes[key] = (int(sides[0]), int(sides[1])) if all(type(side) is int and side > 0 for side in sides) else None
        name = image.get("file_name")
        for known in set(_names(name)) if isinstance(name, str) and name else ():
            self._by_name.setdefault(known, set()).add(key)
        if not name:
            self._nameless.add(key)

    def _add_item(self, item: Any, listed: bool) -> None:
        if not isinstance(item, dict) or "image_id" not in item:
            raise DataError(f"{self.path}: an annotation without image_id: {short(item)}", hint=_HINT)
        key = str(item["image_id"])
        if listed and key not in self._sizes:
            raise DataError(f"{self.path}: an annotation is of image {key}, which the file does not list", hint=_HINT)
        if not listed:
            self._nameless.add(key)
            for known in set(_names(key)):
                self._by_name.setdefault(known, set()).add(key)
        if not item.get("iscrowd"):
            self._items.setdefault(key, []).append(item)


def annotations_in(path: Path) -> Annotations:
    """Returns the annotations of a file that is about one image: a list of them or of run lengths, or {annotations: [...]}.

    Raises:
        DataError: It cannot be read, is damaged, or holds something else.
    """
    parsed = read_json(path)
    if isinstance(parsed, dict) and "counts" in parsed:
        parsed = [parsed]
    listed = parsed if isinstance(parsed, list) else _list(path, parsed, "annotations")
    items = [{"segmentation": item} if isinstance(item, dict) and "counts" in item else item for item in listed]
    for item in items:
        if not isinstance(item, dict):
            raise DataError(
                f"{path}: an annotation that is none: {short(item)}", hint="expected {segmentation} or {size, counts}"
            )
    return Annotations(str(path), tuple(item for item in items if not item.get("iscrowd")))


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        DataError: It cannot be read, or is damaged: at which line.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: damaged JSON at column {error.colno} ({error.msg})",
            hint="write or fetch it again; a file that ends too early was cut off",
        ) from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'it is no JSON text'})") from error


def mask_of(annotation: dict[str, Any], size: Size, where: str) -> Bitmap:
    """Returns an annotation's mask at its own size: that of its run lengths, or ``size`` for polygons.

    Raises:
        DataError: It has no mask, or a damaged one.
    """
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        size = _checked_size(segmentation, where)
        check_run_lengths(segmentation.get("counts"), size, where)
    plain = {"segmentation": segmentation, "category_id": 0, "id": annotation.get("id", "?"), "image_id": where}
    try:
        return Instances.from_coco([plain], *size).mask(0)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: a segmentation that is none: {short(segmentation)}", hint=_SEGMENTATION) from error
    except DataError as error:
        raise DataError(f"{where}: an annotation without a mask: {short(annotation)}", hint=_SEGMENTATION) from error


_SEGMENTATION = "expected polygons [[x0, y0, x1, y1, …]] or run lengths {size, counts}, as in COCO"


def score_of(annotation: dict[str, Any], where: str) -> float:
    """Returns ``score`` (or ``predicted_iou``, as Segment Anything calls it) of an annotation; 1 where there is none.

    Raises:
        DataError: It is no number from 0 to 1.
    """
    score = annotation.get("score", annotation.get("predicted_iou", 1.0))
    if isinstance(score, bool) or not isinstance(score, int | float) or math.isnan(score) or not 0 <= score <= 1:
        raise DataError(f"{where}: the score of a mask is {short(score)}", hint="scores are numbers from 0 to 1")
    return float(score)


def _checked_size(segmentation: dict[str, Any], where: str) -> Size:
    size = segmentation.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise DataError(f"{where}: run lengths of size {short(size)}", hint="size is [height, width]")
    return size[0], size[1]


def check_run_lengths(counts: Any, size: Size, where: str) -> None:
    """Checks that run lengths cover an image exactly; what decodes them would leave the rest of the mask to chance.

    Raises:
        DataError: They do not.
    """
    lengths = counts if isinstance(counts, list) else run_lengths(counts)
    if lengths is None or not all(type(length) is int and length >= 0 for length in lengths):
        raise DataError(
            f"{where}: damaged run lengths: {short(counts)}", hint="counts is a list, or text as pycocotools writes it"
        )
    if sum(lengths) != size[0] * size[1]:
        raise DataError(
            f"{where}: run lengths of {sum(lengths)} pixels for a mask of {size[0]} × {size[1]} (height × width)",
            hint="they are cut off, or of another image",
        )


def run_lengths(counts: Any) -> list[int] | None:
    """Returns the run lengths in COCO's compressed text: six bits a character, from 48 on; the third on are differences."""
    if not isinstance(counts, str) or not counts.isascii():
        return None
    found: list[int] = []
    value = bits = 0
    for character in counts.encode("ascii"):
        part = character - 48
        if not 0 <= part < 64 or bits > 60:
            return None
        value |= (part & 31) << bits
        bits += 5
        if not part & 32:  # the last of a number; its highest bit is the sign
            value -= (part & 16) << (bits - 4)
            found.append(value + (found[-2] if len(found) > 2 else 0))
            value = bits = 0
    return None if bits else found


def _list(path: Path, parsed: Any, name: str, *, needed: bool = True) -> Sequence[Any]:
    found = parsed.get(name, None if needed else []) if isinstance(parsed, dict) else None
    if not isinstance(found, list):
        raise DataError(f"{path}: it has no list '{name}'", hint=_HINT)
    return found


def short(item: Any) -> str:
    """Returns something as text of at most 100 characters."""
    text = repr(item)
    return text if len(text) <= 100 else f"{text[:99]}…"
