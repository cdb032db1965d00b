"""True boxes of VOC: ``Annotations/*.xml``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from mdp_core.api import DataError, ImageRecord, TrueBoxes

_HINT = "unpack Annotations and JPEGImages from one archive of VOC"


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses document types: entities are declared there, which read other files or grow without end."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ElementTree.ParseError("it declares a document type, which annotations of VOC do not have")


def read_boxes(path: Path, record: ImageRecord, classes: tuple[str, ...]) -> TrueBoxes:
    """Reads all objects of an image, those marked difficult or truncated too.

    VOC counts pixels from 1 and includes the last one; here the first pixel is 0 and ends are exclusive, so x0 = xmin - 1, x1 = xmax.

    Args:
        path: The file.
        record: Its image.
        classes: Names of the object classes, without background.

    Raises:
        DataError: The file cannot be read, is for another size, or has an object without a known class or a box in the image.
    """
    try:
        tree = ElementTree.fromstring(path.read_bytes(), parser=ElementTree.XMLParser(target=_NoDoctype()))
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{path}: cannot be read as annotations of VOC ({reason})", hint=_HINT) from error
    size = tree.findtext("size/width"), tree.findtext("size/height")
    if size not in ((None, None), (str(record.width), str(record.height))):
        raise DataError(f"{path}: {size[0]}×{size[1]} px, but its image is {record.width}×{record.height}", hint=_HINT)
    objects = [_object(found, f"{path}: object {n}", record, classes) for n, found in enumerate(tree.iterfind("object"), 1)]
    return TrueBoxes(
        np.array([box for box, _ in objects], np.float32).reshape(-1, 4), np.array([label for _, label in objects], np.int32)
    )


def _object(found: Any, where: str, record: ImageRecord, classes: tuple[str, ...]) -> tuple[list[float], int]:
    name = (found.findtext("name") or "").strip()
    if name not in classes:
        raise DataError(f"{where}: {name!r} is no class of VOC", hint=f"classes: {', '.join(classes)}")
    try:
        x0, y0, x1, y1 = (float(found.findtext(f"bndbox/{side}") or "nan") for side in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        x0 = y0 = x1 = y1 = math.nan
    box = [max(x0 - 1, 0.0), max(y0 - 1, 0.0), min(x1, record.width), min(y1, record.height)]
    if any(map(math.isnan, (x0, y0, x1, y1))) or box[0] >= box[2] or box[1] >= box[3]:
        raise DataError(f"{where}: no box in the image ({name}, bndbox {x0:g} {y0:g} {x1:g} {y1:g})", hint=_HINT)
    return box, classes.index(name)
