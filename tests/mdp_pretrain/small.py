"""A training of seconds; run as a program it trains as its arguments say (to be killed, or in several processes)."""

import json
import multiprocessing
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mdp_core.api import Context, DataError, ImageRecord, Images, Instances, Pixels, Silence, StageError
from mdp_datasets.settings import ShapesConfig
from mdp_datasets.shapes import Shapes
from mdp_mmengine.launch import Place
from mdp_pretrain.pretrainer import Dino, _Training
from mdp_pretrain.processes import together
from mdp_pretrain.settings import DinoConfig

SETTINGS: dict[str, Any] = {
    "arch": "mdp_vit_tiny",
    "image_side": 32,
    "views": {"size": 32, "local_count": 1, "local_size": 16},
    "head": {"hidden": 16, "bottleneck": 8, "prototypes": 12, "patch_prototypes": 10, "batch_norm": True},
    "train": {
        "iters": 6, "batch": 4, "centring": "sinkhorn", "patch_loss": 1.0, "mask_view": "new", "mask": [0.2, 0.5],
        "same_view": 0.5, "checkpoint_every": 2,
    },
    "amp": "off",
    "probe_every": 4,
    "workers": 1,
}  # fmt: skip


def settings(**changes: Any) -> DinoConfig:
    """Changes of sub-models are merged: ``settings(train={"iters": 2})``."""
    merged = {
        name: {**SETTINGS[name], **value} if isinstance(value, dict) and name in SETTINGS else value
        for name, value in changes.items()
    }
    return DinoConfig(**{**SETTINGS, **merged})


def scenes(count: int, size: int = 48) -> tuple[Images, list[Instances]]:
    dataset = Shapes(ShapesConfig(size=size, train_images=count), Context())
    records = [ImageRecord(source.id, *source.size) for source in dataset.sources("train")]
    return Images(records, dataset.read), [dataset.instances(record) for record in records]


@dataclass(frozen=True)
class Unreadable:
    """Reads as another does, until it stands in a child."""

    images: Images
    how: str

    def __call__(self, record: ImageRecord) -> Pixels:
        if multiprocessing.current_process().name != "MainProcess":
            if self.how == "killed":
                os.kill(os.getpid(), 9)
            raise DataError("scan_07.png: cannot be read", hint="take it out")
        return self.images.read(self.images.records.index(record))


class Recorder(Silence):
    def __init__(self, stop: int | None = None, kill: int | None = None) -> None:
        self.stop, self.kill = stop, kill
        self.metrics: list[dict[str, float]] = []
        self.notes: dict[str, str] = {}

    def progress(self, done, total, metrics) -> None:
        self.metrics.append(dict(metrics))
        if done == self.stop:
            raise KeyboardInterrupt
        if done == self.kill:
            os.kill(os.getpid(), 9)

    def note(self, name: str, value: str) -> None:
        self.notes[name] = value


def fit(
    root: Path, config: DinoConfig, *, listener: Recorder | None = None, images=None, instances=None, seed: int = 3
) -> Path:
    """Trains under ``root``, and returns the folder with the result."""
    torch.set_num_threads(1)
    folder, work = root / "result", root / "work"
    for made in (folder, work):
        made.mkdir(parents=True, exist_ok=True)
    found, masks = scenes(10)
    context = Context(seed, "cpu", listener or Silence())
    Dino(config, context).fit(found if images is None else images, masks if instances is None else instances, folder, work)
    return folder


@dataclass(frozen=True)
class AndKeep:
    """Trains, and keeps what the process has in the end."""

    training: _Training

    def __call__(self, place: Place) -> None:
        trainer = self.training.trained(place, Context(self.training.seed))
        state = {"student": trainer.student.state_dict(), "teacher": trainer.distillation.teacher.state_dict()}
        torch.save(state, self.training.work / f"rank{place.rank}.pt")


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    root = Path(told["root"])
    config = settings(**told.get("settings", {}))
    images, instances = scenes(10)
    if told.get("failures"):
        for name, how, changes in (("a", "error", {}), ("b", "killed", {}), ("c", "", {"train": {"batch": 5}})):
            try:
                bad = Images(images.records, Unreadable(images, how)) if how else images
                fit(root / name, settings(devices=2, **changes), images=bad, instances=instances)
            except StageError as error:
                print(json.dumps([error.message, error.hint]))
    elif told.get("ranks"):
        root.mkdir()
        keep = AndKeep(_Training(config, images, instances, 3, root))
        with together(config.devices, "cpu", root, keep) as place:
            keep(place)
    else:
        fit(root, config, listener=Recorder(kill=told.get("kill")), images=images, instances=instances)
