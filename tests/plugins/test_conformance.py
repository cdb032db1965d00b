"""Every plugin that comes with mdp passes the checks that are made for the plugins of others.

All registered plugins are taken. ``SETTINGS`` holds small ones where the defaults need weights or files, or take long.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import shutil
import tempfile
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

VIT = {"weights": "builtin:tiny", "short_side": 48, "centre_keys": True}
TRAINING = {"iters": 4, "batch": 4, "size": 64, "checkpoint_every": 2, "workers": 0}
SETTINGS: dict[str, dict[str, Any]] = {
    "clusterer:kmeans": {"embed": {"weights": "builtin:tiny", "size": 32}, "clusters": 3, "restarts": 2, "iterations": 5},
    "dataset:coco": {"root": str(HERE / "coco")},
    "dataset:folder": {"root": str(HERE / "photos")},
    "dataset:shapes": {"size": 48, "train_images": 8, "val_images": 4},
    "dataset:voc": {"root": str(HERE), "train": "train", "eval": "train"},
    "detector:mask-rcnn": {
        "arch": "r18-fpn",
        "anchor_scale": 4,
        "fpn_channels": 32,
        "fit": {
            "iters": 4,
            "batch": 2,
            "warmup": 2,
            "train_sides": [48, 64],
            "max_side": 96,
            "rpn_samples": 32,
            "rcnn_samples": 16,
            "proposals": 50,
            "workers": 0,
            "checkpoint_every": 2,
        },
        "predict": {"side": 64, "max_side": 96, "proposals": 50, "max_per_image": 5, "score_threshold": 0.01},
    },
    "observer:mlflow": {"tracking_uri": f"sqlite:///{HERE}/mlflow.db"},
    "pretrainer:dino": {
        "arch": "mdp_vit_tiny",
        "image_side": 32,
        "views": {"size": 32, "local_count": 1, "local_size": 16},
        "head": {"hidden": 16, "bottleneck": 8, "prototypes": 12, "patch_prototypes": 10},
        "train": {"iters": 4, "batch": 4, "checkpoint_every": 2},
        "workers": 1,
    },
    "prior:maskcut": {"square": 96, "masks": 2},
    "prior:mask-folder": {"path": str(HERE / "masks"), "missing": "empty"},
    "probe:linear": {"features": "builtin:tiny", "fit": TRAINING, "predict": {"side": 64}},
    "probe:knn": {"images": {"side": 64}},
    "refiner:dense-crf": {"max_side": 320},
    "segmenter:deeplabv3": {
        "arch": "r18",
        "fit": {**TRAINING, "lr": 0.02, "frozen_stages": -1, "mm_overrides": {"decode_head": {"channels": 32}}},
        "predict": {"side": 64},
    },
}
GLOBAL = "MMEngine's transforms and samplers draw from the global generators, so each iteration seeds them; a worker serves one stage"
TORCH = "torch initialises networks from its global generator before their weights are loaded; a worker serves one stage"
EXPECTED: dict[str, dict[str, str]] = {
    "detector:mask-rcnn": {
        "the_process_is_left_alone": GLOBAL,
    },
    "pretrainer:dino": {
        "the_process_is_left_alone": "each iteration seeds torch's global generator, so that a resumed training draws the same; a worker serves one stage",
    },
    "probe:knn": {"the_process_is_left_alone": TORCH},
    "probe:linear": {"the_process_is_left_alone": GLOBAL},
    "segmenter:deeplabv3": {"the_process_is_left_alone": GLOBAL},
}


def settings_of(slot: str, model: type[Any]) -> dict[str, Any]:
    """Returns small settings: those above, or, of a prior on a ViT, those of the tiny network."""
    fields = model.model_fields if slot.startswith("prior:") and "weights" in model.model_fields else {}
    return {**{name: value for name, value in VIT.items() if name in fields}, **SETTINGS.get(slot, {})}


@functools.cache
def segmenter() -> Path:
    """Returns what a small segmenter learned, for the probe that reads one."""
    small = SETTINGS["segmenter:deeplabv3"]
    longer = {**small["fit"], "iters": 20, "checkpoint_every": 100}  # long enough that it tells objects from background
    trial = Trial("segmenter:deeplabv3", settings={**small, "fit": longer})
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
        settings = settings_of(slot, host.config(kind, name))
        marked = parametrize_with_checks(slot, settings=settings, expected_failures=EXPECTED.get(slot, {}), model=segmenter)
        found += [pytest.param(*p.values, id=f"{slot}-{p.id}", marks=p.marks) for p in marked.args[1]]
    return found


make_files()


@pytest.mark.parametrize("check", every_check())
def test_conformance(check: Any, request: pytest.FixtureRequest) -> None:
    if (
        "mask-rcnn" in request.node.name
    ):  # importing MMDetection prints a line about libraries that are not there, once a process
        importlib.import_module("mdp_mmdet.mmdet_parts")
        importlib.import_module("mmdet.datasets")
    check()
