"""``mdp data``: ground truth in the format of COCO, and parts of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdp_core.cli.messages import for_people

if TYPE_CHECKING:
    from mdp_core.data.images import ImageRecord
    from mdp_core.data.instances import Instances
    from mdp_core.stages.dataset import Dataset, Source

app = typer.Typer(no_args_is_help=True, help="Ground truth as COCO JSON: make it from VOC, take a part of it.")

PATIENCE = 2.0
"""Seconds before progress is shown."""


class Masks(StrEnum):
    """How a mask is written."""

    RLE = "rle"
    POLYGONS = "polygons"


VocRoot = Annotated[
    Path, typer.Argument(metavar="ROOT", help="Folder that contains VOC2012, or VOC2012 itself.", show_default=False)
]
Annotations = Annotated[Path, typer.Argument(metavar="ANNOTATIONS.json", help="Annotations as COCO JSON.", show_default=False)]
List_ = Annotated[
    str,
    typer.Argument(metavar="LIST", help="A list that comes with mdp (coco20k), or a text file of names.", show_default=False),
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE.json", help="Where to.", show_default=False)]
Year = Annotated[int, typer.Option(min=2007, max=2012, help="Year of the challenge.")]
Split = Annotated[str, typer.Option(help="A list under ImageSets/Segmentation.")]
MasksOption = Annotated[
    Masks,
    typer.Option(
        help="rle: every pixel as it is. polygons: outlines simplified to 2 pixels, as the authors of MaskDistill do; fills holes."
    ),
]
SkipMissing = Annotated[bool, typer.Option("--skip-missing", help="Leave out listed images that the annotations do not have.")]


@app.command("voc-instances")
def voc_instances(
    root: VocRoot, output: Output, year: Year = 2012, split: Split = "trainval", masks: MasksOption = Masks.RLE
) -> None:
    """Write the objects of VOC (SegmentationObject) as COCO JSON.

    The class of an object is the one that most of its pixels have in SegmentationClass. Numbers of images and annotations start at 1.
    """
    with for_people(lambda: "interrupted; nothing was written"):
        target = _target(output)
        dataset = _dataset("voc", root=str(root), year=year, labels="SegmentationClass")
        sources = list(dataset.sources(split))
        with _patiently(split) as progress:
            result, kept = _converted(dataset, sources, masks, progress)
        without = len(sources) - len(result["images"])
        if not result["images"]:
            from mdp_core.errors import DataError

            raise DataError(
                f"{root}: none of the {len(sources):,} images of split {split} has objects",
                hint="they come from SegmentationObject and SegmentationClass of the official archive; unpack both",
            )
        result["info"] = {
            "description": f"PASCAL VOC{year}, split {split}, objects of SegmentationObject, masks as {masks.value}"
        }
        _write(target, result)
        typer.echo(f"{target}: {_counts(result)}, masks as {masks.value}")
        if without:
            typer.echo(f"left out, without SegmentationObject: {without:,} of {len(sources):,} images", err=True)
        if kept:
            typer.echo(f"too small for a polygon, written as run lengths: {kept:,} objects", err=True)


@app.command("coco-subset")
def coco_subset(annotations: Annotations, list_: List_, output: Output, skip_missing: SkipMissing = False) -> None:
    """Write the part of COCO annotations that is about the images of a list."""
    with for_people(lambda: "interrupted; nothing was written"):
        target, file = _target(output), annotations.expanduser().absolute()
        if not file.is_file():
            from mdp_core.errors import DataError

            raise DataError(f"{file}: no such file", hint="name annotations as COCO JSON, for example instances_train2014.json")
        split, missing = file.stem, "skip" if skip_missing else "error"
        places = {"images": {split: "."}, "annotations": {split: str(file)}}
        dataset = _dataset("coco", root=str(file.parent), train=split, eval=split, subset=list_, missing=missing, **places)
        names = {source.id for source in dataset.sources(split)}
        result = _part(_read(file), names)
        _write(target, result)
        typer.echo(f"{target}: {_counts(result)}")


def _dataset(name: str, **settings: Any) -> Dataset[Any]:
    from mdp_core.plugins.loader import load_plugins
    from mdp_core.stages.base import Context

    host = load_plugins()
    host.check()
    dataset: Dataset[Any] = host.create("dataset", name, settings, Context())
    return dataset


def _converted(
    dataset: Dataset[Any], sources: Sequence[Source], masks: Masks, progress: Callable[[int, int], None]
) -> tuple[dict[str, Any], int]:
    """Returns images, annotations and categories, and how many masks have no polygon."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    kept = 0
    base = os.path.commonpath([source.path.parent for source in sources if source.path])
    for done, source in enumerate(sources, 1):
        record = _record(source)
        objects = None if record is None else dataset.instances(record)
        if record is not None and objects is not None:
            number = len(images) + 1
            name = Path(os.path.relpath(record.path or record.id, base)).as_posix()
            images.append({"id": number, "file_name": name, "height": record.height, "width": record.width})
            found = objects.to_coco(number, first_id=len(annotations) + 1)
            kept += _outlined(found, objects) if masks is Masks.POLYGONS else 0
            annotations += [{name: value for name, value in item.items() if name != "score"} for item in found]
        progress(done, len(sources))
    categories = [{"id": number, "name": name} for number, name in enumerate(dataset.class_names) if number]
    return {"images": images, "annotations": annotations, "categories": categories}, kept


def _record(source: Source) -> ImageRecord | None:
    """Returns an image with the size that its header says, or that of its ground truth where the photograph is not there."""
    from PIL import Image

    from mdp_core.data.images import ImageRecord

    for path in (source.path, *(file for file in source.truth if file.suffix == ".png")):
        try:
            with Image.open(path or "") as image:
                return ImageRecord(source.id, image.height, image.width, str(source.path))
        except OSError:
            continue
    return None


def _outlined(annotations: Sequence[dict[str, Any]], objects: Instances) -> int:
    """Writes polygons in place of run lengths; returns how many masks are too small for one and keep theirs."""
    from mdp_core.data.polygons import to_polygons

    kept = 0
    for index, annotation in enumerate(annotations):
        polygons = to_polygons(objects.mask(index))
        kept += not polygons
        if polygons:
            annotation["segmentation"] = polygons
    return kept


def _part(content: dict[str, Any], names: set[str]) -> dict[str, Any]:
    images = [image for image in content["images"] if image["file_name"] in names]
    numbers = {image["id"] for image in images}
    return {**content, "images": images, "annotations": [a for a in content["annotations"] if a.get("image_id") in numbers]}


def _read(file: Path) -> dict[str, Any]:
    from mdp_core.errors import DataError

    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8-sig"))
        if all(isinstance(item, dict) for item in content["annotations"]):
            return content
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{file}: cannot be read as COCO JSON ({error})", hint="unpack or download it again") from error
    raise DataError(f"{file}: its annotations are not those of COCO", hint="each says its image_id")


def _counts(result: dict[str, Any]) -> str:
    used = len({item["category_id"] for item in result["annotations"]})
    return f"{len(result['images']):,} images, {len(result['annotations']):,} objects of {used} classes"


def _target(output: Path) -> Path:
    """Returns the file to write to.

    Raises:
        DataError: Its folder is missing, or it is a folder.
    """
    from mdp_core.errors import DataError

    path = output.expanduser().absolute()
    if path.is_dir():
        raise DataError(f"{path}: is a folder", hint="name the file to write with -o, for example -o instances.json")
    if not path.parent.is_dir():
        raise DataError(f"{path.parent}: no such folder, so {path.name} cannot be written there", hint="make the folder first")
    return path


def _write(path: Path, result: dict[str, Any]) -> None:
    """Writes the file, whole or not at all."""
    from mdp_core.data.storage import write_text
    from mdp_core.errors import DataError

    try:
        write_text(path, json.dumps(result, ensure_ascii=False, separators=(",", ":")))
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror})", hint="choose another place with -o") from error


@contextmanager
def _patiently(split: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function to tell (done, total) images to; shows them from ``PATIENCE`` seconds on."""
    from rich.console import Console

    from mdp_core.cli.progress import ConsoleProgress

    display, began = ConsoleProgress(Console(stderr=True)), time.monotonic()

    def progress(done: int, total: int) -> None:
        if time.monotonic() - began > PATIENCE:
            display.scanning(split, done, total)

    try:
        yield progress
    finally:
        display.close()
