"""Mistakes around evaluation: protocols without labels, probes, checkpoints, supporting images, annotations, tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from malformed_cases.case import TOY, Case
from malformed_cases.data import photos, voc
from malformed_cases.texts import GOOD, toy

_WHOLE = GOOD + "  segmenter: {use: table}\nevaluate: [clustering]\n"
_DEEPLAB = GOOD + "  segmenter: {use: deeplabv3, arch: r18}\nevaluate: [clustering]\n"
_COCO = """\
name: mine
data: {use: coco, root: coco, train: photos, eval: photos, annotations: {photos: objects.json}, min_side: 8}
pipeline: {prior: {use: bright}}
evaluate: [instances]
"""


def _set(mistake: str, text: str, *sets: str, code: int = 2) -> Case:
    return toy(mistake, text, *(f"--set '{s}'" for s in sets), code=code)


def _coco(change: Callable[[dict], object] = lambda content: None, text: str | None = None) -> Callable[[Path], None]:  # type: ignore[type-arg]
    """Makes a folder in COCO's layout: three photographs with an object each."""

    def prepare(folder: Path) -> None:
        photos(folder).rename(folder / "taken")
        (folder / "coco").mkdir()
        (folder / "taken").rename(folder / "coco" / "photos")
        files = sorted((folder / "coco" / "photos").iterdir())
        images = [
            dict(zip(("width", "height"), Image.open(f).size, strict=True), id=n, file_name=f.name)
            for n, f in enumerate(files, 1)
        ]
        box = [5.0, 5.0, 25.0, 5.0, 25.0, 20.0, 5.0, 20.0]
        objects = [
            {"id": n, "image_id": n, "category_id": 3, "segmentation": [box], "iscrowd": 0} for n in range(1, len(files) + 1)
        ]
        content = {"images": images, "annotations": objects, "categories": [{"id": 3, "name": "cat"}]}
        change(content)
        (folder / "coco" / "objects.json").write_text(json.dumps(content) if text is None else text)

    return prepare


def _case(mistake: str, prepare: Callable[[Path], object], more: str = "", *, code: int = 1) -> Case:
    command = f"mdp run mine.yaml --plugin toy.py --no-track {more}".strip()
    return Case(mistake, command, {"mine.yaml": _COCO, "toy.py": TOY}, prepare, code=code)  # type: ignore[arg-type]


EVALUATION: list[Case] = [
    _set("a protocol that is mistyped", _WHOLE, "evaluate=[clustering-object]"),
    _set("a probe without a segmenter", GOOD, "pipeline.probe={use: linear}"),
    _set("a dense CRF after a segmenter that keeps no probabilities", _DEEPLAB, "pipeline.crf={kind: refiner, use: dense-crf}"),
    _set("the best of snapshots, and no snapshots", _DEEPLAB, "pipeline.segmenter.checkpoint=best-on-labels"),
    _set("`support` in a stage that learns nothing from it", _WHOLE, "pipeline.prior.support=true"),
    _set("supporting images that are those of the training split", _WHOLE, "data.support=train", code=1),
    _case("COCO: annotations that are cut off", _coco(text='{"images": [')),
    _case("COCO: annotations without categories", _coco(lambda content: content.pop("categories"))),
    _case(
        "COCO: an object of an image that is not listed", _coco(lambda content: content["annotations"][0].update(image_id=99))
    ),
    _case(
        "COCO: an object of a category that is not listed",
        _coco(lambda content: content["annotations"][0].update(category_id=7)),
    ),
    _case("COCO: sizes of another copy of the images", _coco(lambda content: content["images"][0].update(width=500))),
    _case("COCO: no objects at all", _coco(lambda content: content["annotations"].clear())),
    _case("COCO: a list of images that does not exist", _coco(), "--set data.subset=coco2k"),
    _case("COCO: no annotations for the split that is evaluated", _coco(), "--set data.annotations.photos=gone.json"),
    Case(
        "VOC instances: no SegmentationObject", "mdp data voc-instances VOCdevkit -o objects.json --split val", {}, voc, code=1
    ),
    Case("a table that there is not", "mdp table pascal-component last", code=1),
    Case("a table of a run that there is not", "mdp table pascal-components last", code=1),
]
