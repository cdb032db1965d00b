"""What the probes' tests share: halves of two colours, and a small DeepLab; run as a program it trains and may be killed."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from mdp_core.api import Context, ImageRecord, Images, LabelMap, Silence
from mdp_mmengine.models import build_model, merge
from mdp_mmengine.weights import Published, publish
from mdp_mmseg.model import model_config
from mdp_mmseg.settings import DeepLabV3Config
from mdp_probe.linear import LinearProbe
from mdp_probe.settings import LinearConfig

COLOURS = np.array([(120, 120, 120), (220, 40, 40), (40, 40, 220)])
STILL = {"scale": (1, 1), "rotate": (0, 0), "flip": 0.0}
SMALL = {"size": 64, "batch": 4, "workers": 0}


def scene(index: int, size: int = 64) -> tuple[np.ndarray, LabelMap]:
    """Two halves, each of one of three classes, cut where patches of 8 pixels are cut too."""
    rng = np.random.default_rng(index)
    labels = np.zeros((size, size), np.uint8)
    labels[:, : size // 2], labels[:, size // 2 :] = rng.choice(3, 2, replace=False)
    if index % 2:
        labels = np.ascontiguousarray(labels.T)
    return (COLOURS[labels] + rng.integers(-20, 20, (size, size, 3))).astype(np.uint8), LabelMap(labels)


def data(count: int, first: int = 0) -> tuple[Images, list[LabelMap]]:
    scenes = [scene(first + i) for i in range(count)]
    records = [ImageRecord(str(i), 64, 64) for i in range(count)]
    return Images(records, lambda record: scenes[int(record.id)][0]), [labels for _, labels in scenes]


def deeplab(folder: Path, clusters: int = 3, channels: int = 32) -> Path:
    """Publishes a network with random weights whose answers differ from pixel to pixel."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    config = merge(model_config(DeepLabV3Config(arch="r18"), clusters), {"decode_head": {"channels": channels}})
    model = build_model(config, "mmseg", initialise=True).eval()
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    with torch.no_grad():
        inputs = model.data_preprocessor({"inputs": [torch.from_numpy(scene(99)[0].transpose(2, 0, 1).copy())]}, False)[
            "inputs"
        ]
        model.decode_head.conv_seg.bias -= model(inputs, mode="tensor")[0].mean((1, 2))  # so that no label wins everywhere
    publish(folder, model, Published("mmseg", config, {"clusters": clusters}, parts="mdp_mmseg.model"))
    return folder


class Recorder(Silence):
    """Remembers what it hears, and may stop the training as a crash would, or be killed."""

    def __init__(self, stop: int | None = None, kill: int | None = None) -> None:
        self.stop, self.kill, self.calls, self.notes = stop, kill, [], {}

    def progress(self, done, total, metrics):
        if done == self.stop:
            raise KeyboardInterrupt
        if done == self.kill:
            os.kill(os.getpid(), 9)
        self.calls.append((done, total, dict(metrics)))

    def note(self, name, value):
        self.notes[name] = value


def fit(
    root: Path, model: Path | None = None, *, features="builtin:random", listener=None, seed=0, count=6, truth=None, **settings
):
    """Trains a linear probe; returns the stage and its folder."""
    folder, work = root / "probe", root / "work"
    folder.mkdir(parents=True, exist_ok=True)
    work.mkdir(exist_ok=True)
    stage = LinearProbe(
        LinearConfig(features=features, fit=SMALL | {"iters": 6} | settings),
        Context(seed=seed, listener=listener or Recorder()),
    )
    images, labels = data(count)
    stage.fit(images, truth or labels, 3, model, folder, work)
    return stage, folder


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    fit(Path(arguments["root"]), listener=Recorder(kill=arguments["kill"]), checkpoint_every=2)
