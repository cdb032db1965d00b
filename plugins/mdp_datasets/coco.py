"""Coco: COCO (Lin et al., 2014), and any other images with annotations in its format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mdp_core.api import DataError, Dataset, ImageRecord, Instances, LabelMap, Source
from mdp_datasets.coco_file import CocoFile, CocoImage, CocoObject, coco_file
from mdp_datasets.coco_places import Place, chosen, files_in, place_of
from mdp_datasets.lists import read_subset
from mdp_datasets.places import existing_folder, listed
from mdp_datasets.settings import CocoConfig


class Coco(Dataset[CocoConfig]):
    """Splits are folders of images, each with a file of annotations; ids are the file names, in whose order the images come.

    The images of a split are those that its annotations list, or, without annotations, all in its folder. ``subset`` is for the splits
    ``train`` and ``eval``; ``support`` keeps all of its images.

    Classes are background and the categories in the order of their numbers. Objects are the annotations that are no crowd (``iscrowd``);
    their boxes are those of the annotations.
    """

    Config = CocoConfig

    def sources(self, split: str) -> Iterator[Source]:
        """Yields the images; the engine finds those that are listed and not there.

        Raises:
            DataError: The root, the split's folder or its annotations are missing; the annotations are damaged; the subset is unknown
                or names images that the split does not have; or there are no images.
        """
        place = place_of(self.config, split)
        names: Iterable[str] = (
            files_in(place.images) if place.annotations is None else coco_file(place.annotations).listing.images
        )
        where = place.annotations or place.images
        names = self._subset(split, names, where)
        if not names:
            raise DataError(f"{where}: no images", hint=f"split {split} needs images that are listed there")
        truth = () if place.annotations is None else (place.annotations,)
        for name in names:
            yield Source(id=name, path=place.images / name, truth=truth)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Background and the categories of the annotations of ``eval``, else of ``train``; nothing where neither has any."""
        file = next((file for _, file in self._files), None)
        return () if file is None else ("background", *file.listing.categories.values())

    def instances(self, record: ImageRecord) -> Instances | None:
        """Objects of an image, without crowds; None where no annotations list the image.

        Raises:
            DataError: An annotation is no mask for this image, or the image is of another size than annotated.
        """
        return self._annotated(record, crowd=False)

    def crowds(self, record: ImageRecord) -> Instances | None:
        """Regions of several objects that nobody told apart; as ``instances``."""
        return self._annotated(record, crowd=True)

    def label_map(self, record: ImageRecord) -> LabelMap | None:
        """Class of each pixel: where objects overlap that of the smaller one, ignore in crowds outside of objects, else background.

        Raises:
            DataError: As ``instances``.
        """
        objects, crowds = self.instances(record), self.crowds(record)
        if objects is None or crowds is None:
            return None
        values = LabelMap.from_array(np.zeros(objects.size, np.uint8), clusters=len(self.class_names) - 1).values
        painted = LabelMap(values)
        for index in range(len(crowds)):
            values[crowds.mask(index)] = painted.ignore
        for index in np.argsort(-objects.areas(), kind="stable"):
            values[objects.mask(int(index))] = objects.labels[index] + 1
        return painted

    def _subset(self, split: str, names: Iterable[str], where: Path) -> list[str]:
        """Returns the names that ``subset`` keeps.

        Raises:
            DataError: It names others, and they are not to be skipped.
        """
        config = self.config
        everywhere = config.subset if split in (config.train, config.eval) and not isinstance(config.subset, dict) else None
        subset = config.subset.get(split) if isinstance(config.subset, dict) else everywhere
        if subset is None:
            return list(names)
        lines = read_subset(subset, existing_folder(config.root))
        found, missing = chosen(lines, dict.fromkeys(names))
        if missing and (config.missing == "error" or not found):
            raise DataError(
                f"subset {subset}: {len(missing):,} of {len(lines):,} images are not in {where}: {listed(missing, 3)}",
                hint=f"is it a list of split {split}? data.missing: skip (--skip-missing) leaves them out; data.subset: {{SPLIT: LIST}} has one for each",
            )
        return found

    @cached_property
    def _files(self) -> list[tuple[Place, CocoFile]]:
        """Where the splits lie that have annotations, and these; that of ``eval`` first."""
        config = self.config
        splits = [split for split in dict.fromkeys((config.eval, config.train, config.support)) if split is not None]
        places = [place_of(config, split) for split in splits]
        return [(place, coco_file(place.annotations)) for place in places if place.annotations is not None]

    def _find(self, record: ImageRecord) -> tuple[CocoFile, CocoImage] | None:
        """Returns the annotations that list an image: those of the split in whose folder it lies."""
        for place, file in self._files:
            lies_there = record.path is None or Path(record.path) == place.images / record.id
            if lies_there and (image := file.listing.images.get(record.id)) is not None:
                return file, image
        return None

    def _annotated(self, record: ImageRecord, *, crowd: bool) -> Instances | None:
        found = self._find(record)
        if found is None:
            return None
        file, image = found
        if (image.height or record.height, image.width or record.width) != (record.height, record.width):
            raise DataError(
                f"{file.path}: {image.file_name} is annotated at {image.width}×{image.height} px, the image is "
                f"{record.width}×{record.height}",
                hint="images and annotations are of different copies, or an image was resized or turned",
            )
        names = self.class_names[1:]
        if tuple(file.listing.categories.values()) != names:
            raise DataError(
                f"{file.path}: its categories are not those of the split that is evaluated",
                hint=f"they are {listed(list(file.listing.categories.values()))}, those {listed(list(names))}",
            )
        classes = {number: index for index, number in enumerate(file.listing.categories)}
        items = [_plain(o, classes[o.category_id], record, file) for o in file.objects(image) if o.crowd == crowd]
        try:
            return Instances.from_coco(items, record.height, record.width, first_category=0)
        except (ValueError, TypeError) as error:
            raise DataError(f"{file.path}: the annotations of {image.file_name} are no masks ({error})") from error


def _plain(item: CocoObject, label: int, record: ImageRecord, file: CocoFile) -> dict[str, Any]:
    """Returns an annotation as ``Instances.from_coco`` takes it, its class counted from 0.

    Raises:
        DataError: Numbers that pycocotools would take for a mask, but that are none in this image.
    """
    segmentation, height, width = item.segmentation, record.height, record.width
    problem = ""
    if isinstance(segmentation, list):
        points = [np.frombuffer(p) for p in segmentation if len(p)]
        if any(len(p) % 2 for p in points):
            problem = "a polygon has an odd number of coordinates"
        elif not all(_near(p[0::2], width) and _near(p[1::2], height) for p in points):
            problem = "a polygon lies far outside of the image"
    elif isinstance(segmentation, dict):
        segmentation, problem = _checked_runs(segmentation, height, width)
    if item.bbox is not None and (len(item.bbox) != 4 or not all(isinstance(v, int | float) for v in item.bbox)):
        problem = f"its box is not x, y, width, height: {item.bbox}"
    if problem:
        raise DataError(f"{file.path}: annotation {item.id} of {record.id}: {problem}", hint="mend or remove the annotation")
    plain = {"id": item.id, "image_id": item.image_id, "category_id": label, "segmentation": segmentation}
    return plain if item.bbox is None else {**plain, "bbox": item.bbox}


def _near(values: np.ndarray[Any, Any], side: int) -> bool:
    return bool(np.all(np.isfinite(values) & (values >= -side) & (values <= 2 * side)))


def _checked_runs(segmentation: dict[str, Any], height: int, width: int) -> tuple[dict[str, Any], str]:
    """Returns run lengths, and what is wrong with them if they do not cover the image exactly."""
    counts, size = segmentation.get("counts"), segmentation.get("size", [height, width])
    if size != [height, width] or not hasattr(counts, "__len__"):
        return segmentation, f"its mask is of height and width {size}, the image of {[height, width]}"
    if not isinstance(counts, str):
        plain = list(counts or ())
        fits = min(plain, default=0) >= 0 and sum(plain) == height * width
        return {**segmentation, "counts": plain}, "" if fits else "its run lengths do not cover the image"
    try:
        coco_mask.decode({"size": size, "counts": counts.encode("ascii")})
    except (ValueError, UnicodeEncodeError):
        return segmentation, "its run lengths do not cover the image"
    return segmentation, ""
