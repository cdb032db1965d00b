"""A training of a real plugin, small; run as a program it is one of the processes that torchrun starts."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mdp_core.api import Context, ImageRecord, Images, Instances, LabelMap, Silence

COLOURS = np.array([(120, 120, 120), (220, 40, 40), (40, 40, 220)])
SIZE = 64


class Recorder(Silence):
    """Remembers the losses; told to, it kills its process."""

    def __init__(self, kill: int | None = None) -> None:
        self.kill, self.losses = kill, []

    def progress(self, done, total, metrics) -> None:
        self.losses.append(metrics["loss"])
        if done == self.kill:
            os.kill(os.getpid(), 9)


def scene(index: int) -> tuple[np.ndarray, LabelMap]:
    rng = np.random.default_rng(index)
    labels = np.zeros((SIZE, SIZE), np.uint8)
    for label in (1, 2):
        side = rng.integers(22, 32)
        y, x = rng.integers(0, SIZE - side, 2)
        labels[y : y + side, x : x + side] = label
    return (COLOURS[labels] + rng.integers(-20, 20, (SIZE, SIZE, 3))).astype(np.uint8), LabelMap(labels)


def scenes(count: int) -> tuple[Images, list[LabelMap], list[Instances]]:
    made = [scene(i) for i in range(count)]
    records = [ImageRecord(str(i), SIZE, SIZE) for i in range(count)]
    masks = [np.stack([labels.values == label for label in (1, 2)]) for _, labels in made]
    instances = [Instances.from_masks(both, labels=[0, 1]) for both in masks]
    return Images(records, lambda record: made[int(record.id)][0]), [labels for _, labels in made], instances


def deeplab(
    images: Images, maps: list[LabelMap], instances: Any, context: Context, folder: Path, work: Path, **fit: Any
) -> None:
    """Without batch statistics, dropout and hard pixels, each of which is a matter of one process's share of the batch."""
    from mdp_mmseg.deeplabv3 import DeepLabV3
    from mdp_mmseg.settings import DeepLabV3Config

    head = {"channels": 16, "norm_cfg": {"type": "GN", "num_groups": 4}}
    settings = {
        "size": SIZE, "batch": 4, "iters": 4, "lr": 0.02, "frozen_stages": 4, "workers": 0, "hard_pixels": 1.0, "dropout": 0.0,
        "checkpoint_every": 2, "mm_overrides": {"decode_head": head},
    } | fit  # fmt: skip
    DeepLabV3(DeepLabV3Config(arch="r18", fit=settings), context).fit(images, maps, 2, folder, work)


def mask_rcnn(images: Images, maps: Any, instances: list[Instances], context: Context, folder: Path, work: Path) -> None:
    from mdp_mmdet.mask_rcnn import MaskRCNN
    from mdp_mmdet.settings import MaskRCNNConfig

    fit = {
        "iters": 3, "batch": 2, "lr": 0.01, "train_sides": (SIZE,), "rpn_samples": 16, "rcnn_samples": 8, "proposals": 20,
        "workers": 0,
    }  # fmt: skip
    config = MaskRCNNConfig(arch="r18-fpn", anchor_scale=4, fpn_channels=32, fit=fit)
    MaskRCNN(config, context).fit(images, instances, 2, folder, work)


def probe(images: Images, maps: list[LabelMap], instances: Any, context: Context, folder: Path, work: Path, **fit: Any) -> None:
    from mdp_probe.linear import LinearProbe
    from mdp_probe.settings import LinearConfig

    settings = {"size": SIZE, "batch": 4, "iters": 4, "workers": 0, "checkpoint_every": 2} | fit
    LinearProbe(LinearConfig(features="builtin:tiny", fit=settings), context).fit(images, maps, 3, None, folder, work)


def dino(images: Images, maps: Any, instances: list[Instances], context: Context, folder: Path, work: Path) -> None:
    from mdp_pretrain.pretrainer import Dino
    from mdp_pretrain.settings import DinoConfig

    config = DinoConfig(
        arch="mdp_vit_tiny", image_side=32, views={"size": 32, "local_count": 1, "local_size": 16},
        head={"hidden": 16, "bottleneck": 8, "prototypes": 12, "patch_prototypes": 10}, train={"iters": 3, "batch": 4},
        amp="off", probe_every=2, workers=1,
    )  # fmt: skip
    Dino(config, context).fit(images, instances, folder, work)


def run(root: Path, plugin: str, *, rank: int = 0, kill: int | None = None, **fit: Any) -> Recorder:
    """Trains as the engine would: all processes share ``work``, rank 0 alone has the folder of the result."""
    folder, work = root / ("model" if rank == 0 else f"scratch{rank}"), root / "work"
    for made in (folder, work):
        made.mkdir(parents=True, exist_ok=True)
    listener = Recorder(kill if rank == 0 else None)
    context = Context(seed=3, listener=listener)
    train = {"deeplab": deeplab, "mask-rcnn": mask_rcnn, "dino": dino, "probe": probe}[plugin]
    train(*scenes(5), context, folder, work, **fit)
    return listener


if __name__ == "__main__":
    root, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    heard = run(root, rank=rank, **json.loads(sys.argv[2]))
    (root / f"heard{rank}.json").write_text(json.dumps(heard.losses))
