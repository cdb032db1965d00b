"""Voc: PASCAL VOC segmentation in the layout of VOCdevkit (Everingham et al., 2010), with the extra labels of SBD."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from mdp_core.api import IGNORE, DataError, Dataset, ImageRecord, Instances, LabelMap, Source
from mdp_datasets.places import existing_folder, listed, unknown_split
from mdp_datasets.settings import VocConfig

# fmt: off
CLASS_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on

_LISTS = PurePosixPath("ImageSets/Segmentation")
_OFFICIAL, _AUGMENTED, _OBJECTS = "SegmentationClass", "SegmentationClassAug", "SegmentationObject"


class Voc(Dataset[VocConfig]):
    """Images listed in ``ImageSets/Segmentation/<split>.txt``; ids are the names in that list.

    Class maps come from ``SegmentationClass``, or ``SegmentationClassAug`` (the annotations of SBD, which also cover the
    images of the list ``trainaug``), as ``labels`` says; instances from ``SegmentationObject`` where it has the file.
    """

    Config = VocConfig

    def sources(self, split: str) -> Iterator[Source]:
        """Yields the images in the order of the list; the engine finds those whose JPEG is missing.

        Raises:
            DataError: The root has no VOC folder, or the split does not exist or is empty.
        """
        root = self._root()
        lists = root / _LISTS
        path = lists / f"{split}.txt"
        existing = sorted(file.stem for file in lists.glob("*.txt"))
        if split not in existing:
            raise unknown_split(split, existing, str(lists), hint=_trainaug_hint(split))
        names = _names(path)
        if not names:
            raise DataError(f"{path}: lists no images", hint="one image name a line, without .jpg")
        for name in names:
            files = (self._class_file(root, name), self._object_file(root, name))
            truth = tuple(file for file in files if file is not None)
            yield Source(id=name, path=root / "JPEGImages" / f"{name}.jpg", truth=truth)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Background and the 20 classes of VOC, in the order of their numbers."""
        return CLASS_NAMES

    def label_map(self, record: ImageRecord) -> LabelMap | None:
        """Class map of an image: 0 background, 1..20, 255 ignore; None where there is no file.

        Raises:
            DataError: The file cannot be read, or is of another size than the image.
        """
        path = self._class_file(self._root(), record.id)
        return None if path is None else _labels(path, record)

    def instances(self, record: ImageRecord) -> Instances | None:
        """Objects of an image, each with the class that most of its pixels have (0 = aeroplane); None without a file.

        Object numbers 0 and 255 are no objects; an object without a single pixel of a class is left out.

        Raises:
            DataError: A file cannot be read, or is of another size than the image.
        """
        root = self._root()
        path = self._object_file(root, record.id)
        classes = self.label_map(record)
        if path is None or classes is None:
            return None
        objects = _labels(path, record).values
        masks, labels = [], []
        for number in np.setdiff1d(objects, (0, IGNORE)):
            mask = objects == number
            votes = np.bincount(classes.values[mask], minlength=IGNORE + 1)[1 : len(CLASS_NAMES)]
            if votes.any():
                masks.append(mask)
                labels.append(int(votes.argmax()))
        bitmaps = np.array(masks, dtype=np.bool_).reshape(-1, record.height, record.width)
        return Instances.from_masks(bitmaps, labels=labels)

    def _root(self) -> Path:
        root = existing_folder(self.config.root)
        inner = root / f"VOC{self.config.year}"
        for folder in (inner, root):
            if (folder / _LISTS).is_dir():
                return folder
        there = listed(sorted(entry.name for entry in root.iterdir()))
        raise DataError(
            f"{root}: neither {inner.name}/{_LISTS} nor {_LISTS} is there",
            hint=f"set data.root to the folder that contains {inner.name} (or to {inner.name} itself); this one holds: {there}",
        )

    def _class_file(self, root: Path, name: str) -> Path | None:
        folders = (_OFFICIAL, _AUGMENTED) if self.config.labels == "auto" else (self.config.labels,)
        files = (root / folder / f"{name}.png" for folder in folders)
        return next((file for file in files if file.is_file()), None)

    def _object_file(self, root: Path, name: str) -> Path | None:
        file = root / _OBJECTS / f"{name}.png"
        return file if file.is_file() else None


def _names(path: Path) -> list[str]:
    """Returns the image names of a list, each once; a line may also be ``/JPEGImages/X.jpg /SegmentationClassAug/X.png``."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(
            f"{path}: cannot be read as a list of images ({reason})", hint="one image name a line, without .jpg"
        ) from error
    firsts = (line.split()[0] for line in lines if line.strip())
    return list(dict.fromkeys(PurePosixPath(first).name.removesuffix(".jpg") for first in firsts))


def _labels(path: Path, record: ImageRecord) -> LabelMap:
    labels = LabelMap.from_png(path)
    if labels.size != (record.height, record.width):
        height, width = labels.size
        raise DataError(
            f"{path}: {width}×{height} px, but its image is {record.width}×{record.height}",
            hint="image and ground truth are of different copies of VOC; unpack both from one archive",
        )
    return labels


def _trainaug_hint(split: str) -> str:
    if not split.startswith("trainaug"):
        return ""
    return (
        f"trainaug is not in the official archive: it comes with {_AUGMENTED} (the annotations of SBD); "
        "put its list beside the others, or set data.train: train"
    )
