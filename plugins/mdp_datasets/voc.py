"""Voc: PASCAL VOC segmentation in the layout of VOCdevkit (Everingham et al., 2010), with the extra labels of SBD."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mdp_core.api import IGNORE, DataError, Dataset, ImageRecord, Instances, LabelMap, Source, TrueBoxes
from mdp_datasets.settings import VocConfig
from mdp_datasets.voc_boxes import read_boxes
from mdp_datasets.voc_splits import AUGMENTED, images_of, year_folder

# fmt: off
CLASS_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on

_OFFICIAL, _OBJECTS, _BOXES = "SegmentationClass", "SegmentationObject", "Annotations"


class Voc(Dataset[VocConfig]):
    """Images of the lists under ImageSets; ids are the names in them. How splits are written: see ``VocConfig``.

    Class maps come from ``SegmentationClass``, or ``SegmentationClassAug`` (the annotations of SBD, which also cover the
    images of the list ``trainaug``), as ``labels`` says; instances from ``SegmentationObject``, boxes from ``Annotations``, where
    they have the file. The truth of an image is looked for in the year that the image is of.
    """

    Config = VocConfig

    def sources(self, split: str) -> Iterator[Source]:
        """Yields the images in the order of the list; the engine finds those whose JPEG is missing.

        Raises:
            DataError: The root has no VOC folder, or the split does not exist or is empty, or joins lists with images of one name.
        """
        for image in images_of(self.config.root, self.config.year, split):
            names = (f"{_OBJECTS}/{image.name}.png", f"{_BOXES}/{image.name}.xml")
            files = (self._class_file(image.folder, image.name), *(_existing(image.folder / name) for name in names))
            yield Source(id=image.name, path=image.path, truth=tuple(file for file in files if file is not None))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Background and the 20 classes of VOC, in the order of their numbers."""
        return CLASS_NAMES

    def label_map(self, record: ImageRecord) -> LabelMap | None:
        """Class map of an image: 0 background, 1..20, 255 ignore; None where there is no file.

        Raises:
            DataError: The file cannot be read, or is of another size than the image.
        """
        path = self._class_file(self._folder(record), record.id)
        return None if path is None else _labels(path, record)

    def instances(self, record: ImageRecord) -> Instances | None:
        """Objects of an image, each with the class that most of its pixels have (0 = aeroplane); None without a file.

        Object numbers 0 and 255 are no objects; an object without a single pixel of a class is left out.

        Raises:
            DataError: A file cannot be read, or is of another size than the image.
        """
        path = _existing(self._folder(record) / _OBJECTS / f"{record.id}.png")
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

    def boxes(self, record: ImageRecord) -> TrueBoxes | None:
        """All objects of an image as boxes, difficult ones too; None without a file (objects are then matched by class maps).

        Raises:
            DataError: The file cannot be read, is for an image of another size, or has an object that is none of VOC.
        """
        path = _existing(self._folder(record) / _BOXES / f"{record.id}.xml")
        return None if path is None else read_boxes(path, record, CLASS_NAMES[1:])

    def _folder(self, record: ImageRecord) -> Path:
        """Returns the folder ``VOC<year>`` that an image lies in."""
        if record.path is not None:
            return Path(record.path).parents[1]
        return year_folder(self.config.root, self.config.year, self.config.year)

    def _class_file(self, root: Path, name: str) -> Path | None:
        folders = (_OFFICIAL, AUGMENTED) if self.config.labels == "auto" else (self.config.labels,)
        return next((file for folder in folders if (file := _existing(root / folder / f"{name}.png"))), None)


def _existing(file: Path) -> Path | None:
    return file if file.is_file() else None


def _labels(path: Path, record: ImageRecord) -> LabelMap:
    labels = LabelMap.from_png(path)
    if labels.size != (record.height, record.width):
        height, width = labels.size
        raise DataError(
            f"{path}: {width}×{height} px, but its image is {record.width}×{record.height}",
            hint="image and ground truth are of different copies of VOC; unpack both from one archive",
        )
    return labels
