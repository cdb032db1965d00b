"""Every plugin that comes with mdp passes the checks that are made for the plugins of others.

All registered plugins are taken, with the settings that they have for trials; ``SETTINGS`` says where the files lie that some need.
"""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mdp_core.plugins.loader import load_plugins
from mdp_core.testing import parametrize_with_checks
from mdp_core.testing.samples import scenes
from mdp_core.testing.trial import Trial

HERE = Path(tempfile.mkdtemp(prefix="mdp-conformance-"))
atexit.register(shutil.rmtree, HERE, ignore_errors=True)

SETTINGS: dict[str, dict[str, Any]] = {
    "dataset:coco": {"root": str(HERE / "coco")},
    "dataset:folder": {"root": str(HERE / "photos")},
    "dataset:voc": {"root": str(HERE), "train": "train", "eval": "train"},
    "observer:mlflow": {"tracking_uri": f"sqlite:///{HERE}/mlflow.db"},
    "prior:mask-folder": {"path": str(HERE / "masks"), "missing": "empty"},
}


@functools.cache
def segmenter() -> Path:
    """Returns what a small segmenter learned, for the probe that reads one."""
    longer = {"iters": 20, "checkpoint_every": 100}  # long enough that it tells objects from background
    trial = Trial("segmenter:deeplabv3", settings={"fit": longer})
    fitted = trial.worked.fitted
    kept = HERE / "segmenter"
    shutil.copytree(fitted.folder if fitted else HERE, kept)
    return kept


def make_files() -> None:
    """Writes the scenes as a folder of masks, a folder of photographs, a COCO and a VOC."""
    voc = HERE / "VOC2012"
    places = {"masks": HERE / "masks", "photos": HERE / "photos", "coco": HERE / "coco" / "val2017"}
    for place in (*places.values(), HERE / "coco" / "train2017", HERE / "coco" / "annotations", voc / "JPEGImages"):
        place.mkdir(parents=True)
    for place in (voc / "SegmentationClass", voc / "SegmentationObject", voc / "ImageSets" / "Segmentation"):
        place.mkdir(parents=True)
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i + 1, "name": f"c{i}"} for i in range(3)],
    }
    for number, sample in enumerate(scenes()):
        name = sample.record.id
        image = Image.fromarray(sample.pixels)
        ids = np.zeros(sample.pixels.shape[:2], np.uint8)
        for index, mask in enumerate(sample.masks.to_masks()):
            ids[mask] = index + 1
        for place in (HERE / "photos", HERE / "coco" / "train2017", HERE / "coco" / "val2017"):
            image.save(place / f"{name}.png")
        image.save(voc / "JPEGImages" / f"{name}.jpg")
        Image.fromarray(ids).save(HERE / "masks" / f"{name}.png")
        Image.fromarray(ids).save(voc / "SegmentationObject" / f"{name}.png")
        (voc / "SegmentationClass" / f"{name}.png").write_bytes(sample.label_map.to_png())
        height, width = ids.shape
        content["images"].append({"id": number, "file_name": f"{name}.png", "height": height, "width": width})
        content["annotations"] += sample.clustered.to_coco(number, first_id=10 * number + 1)
    (HERE / "coco" / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(s.record.id for s in scenes()))


def every_check() -> list[Any]:
    """Returns the checks of all plugins of this distribution, each once."""
    host = load_plugins()
    found = []
    for kind, name in sorted(host.plugins):
        slot = f"{kind}:{name}"
        marked = parametrize_with_checks(slot, settings=SETTINGS.get(slot), model=segmenter)
        found += [pytest.param(*p.values, id=f"{slot}-{p.id}", marks=p.marks) for p in marked.args[1]]
    return found


make_files()


@pytest.mark.parametrize("check", every_check())
def test_conformance(check: Callable[[], None]) -> None:
    check()
