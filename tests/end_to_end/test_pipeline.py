"""The whole pipeline with the real plugins: timm ViT, k-means, MMDet and MMSeg training, in a reduced quickstart."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Call = Callable[..., subprocess.CompletedProcess[str]]

REDUCED = [
    "run", "quickstart",
    "--set", "data={use: shapes, size: 64, train_images: 10, val_images: 4}",
    "--set", "prior.short_side=64",
    "--set", "clusterer.clusters=3", "--set", "clusterer.embed.size=32",
    "--set", "detector.fit={iters: 5, batch: 2, lr: 0.01, warmup: 2, train_sides: [64], max_side: 64, rcnn_samples: 16, rpn_samples: 16, proposals: 50, checkpoint_every: 1, workers: 0}",
    "--set", "detector.predict={side: 64, max_side: 64, proposals: 20, max_per_image: 5}",
    "--set", "segmenter.fit={iters: 5, batch: 2, lr: 0.01, size: 64, frozen_stages: -1, checkpoint_every: 1, workers: 0}",
]  # fmt: skip


def newest_run(folder: Path) -> Path:
    return max((folder / ".mdp" / "runs").iterdir())


def record(folder: Path) -> dict[str, Any]:
    return json.loads((newest_run(folder) / "run.json").read_text())


def final_maps(folder: Path) -> str:
    total = hashlib.sha256()
    for file in sorted((newest_run(folder) / "label_maps").rglob("*.png")):
        total.update(file.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "-m", "mdp_core.cli.main", *REDUCED]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_one_command_does_all_five_stages(undisturbed: Path) -> None:
    run = record(undisturbed)
    assert run["status"] == "finished"
    assert [r["title"] for r in run["results"]["components"]] == ["prior + clusterer", "detector + refiner", "segmenter"]
    for row in run["results"]["components"]:
        assert 0 < row["miou"] < 1
        assert row["protocol"]["matching"] == "hungarian, pixels, split val"
        assert row["protocol"]["images"] == 4
    weights = [s["notes"]["weights"] for s in run["steps"] if "weights" in s["notes"]]
    assert weights
    assert all(w.startswith("builtin:tiny sha256:") for w in weights)
    maps = sorted((newest_run(undisturbed) / "label_maps").rglob("*.png"))
    assert len(maps) == 4
    assert all(np.array(Image.open(m)).shape == (64, 64) for m in maps)
    coco = json.loads((newest_run(undisturbed) / "masks.json").read_text())
    assert len(coco["images"]) == 4
    models = list((undisturbed / ".mdp" / "store").glob("*-fit/*/result"))
    assert {"detector-fit", "segmenter-fit"} <= {m.parents[1].name for m in models}
    assert not list((undisturbed / ".mdp" / "store").rglob("*.tmp"))


def test_the_miou_of_the_table_is_that_of_the_label_maps(undisturbed: Path) -> None:
    """Recomputed pixel by pixel from the files that the run leaves, without the project's evaluation."""
    from itertools import permutations

    from mdp_core.api import Context, ImageRecord
    from mdp_datasets.settings import ShapesConfig
    from mdp_datasets.shapes import Shapes

    run = record(undisturbed)
    maps = sorted((newest_run(undisturbed) / "label_maps").rglob("*.png"))
    dataset = Shapes(ShapesConfig(size=64, train_images=10, val_images=4), Context())
    predicted = np.concatenate([np.array(Image.open(m)).ravel() for m in maps])
    truths = [dataset.label_map(ImageRecord(s.id, 64, 64)) for s in dataset.sources("val")]
    true = np.concatenate([t.values.ravel() for t in truths if t is not None])
    classes = sorted(set(true.tolist()))
    labels = range(max(4, len(classes)))
    best, best_shared = [], -1
    for order in permutations(labels, len(classes)):
        shared = sum(int(((true == c) & (predicted == p)).sum()) for c, p in zip(classes, order, strict=True))
        if shared > best_shared:
            best_shared, best = shared, list(order)
    ious = [
        ((true == c) & (predicted == p)).sum() / ((true == c) | (predicted == p)).sum()
        for c, p in zip(classes, best, strict=True)
    ]
    assert run["results"]["components"][-1]["pixel_accuracy"] == pytest.approx(best_shared / len(true))
    shared_classes = [i for i, (c, p) in enumerate(zip(classes, best, strict=True)) if ((true == c) & (predicted == p)).any()]
    for i in shared_classes:
        assert run["results"]["components"][-1]["iou"][classes[i]] == pytest.approx(ious[i])


def test_the_same_command_again_finds_everything(undisturbed: Path) -> None:
    command = [sys.executable, "-m", "mdp_core.cli.main", *REDUCED]
    done = subprocess.run(command, cwd=undisturbed, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert {s["status"] for s in record(undisturbed)["steps"]} == {"hit"}


@pytest.mark.parametrize("stage", ["detector", "segmenter"])
def test_kill_9_in_the_middle_of_a_training(mdp: Call, tmp_path: Path, undisturbed: Path, stage: str) -> None:
    # One fit is enough to kill; what comes before it is taken from a copy of the undisturbed store.
    import shutil

    shutil.copytree(undisturbed / ".mdp" / "store", tmp_path / ".mdp" / "store")
    kept = ["prior-mine", "clusterer-embed", "clusterer-fit", "clusterer-assign", "evaluate-localisation", "scans"]
    kept += ["detector-fit", "detector-predict", "refiner-refine"] if stage == "segmenter" else []
    for folder in (tmp_path / ".mdp" / "store").iterdir():
        if folder.is_dir() and folder.name not in kept:
            shutil.rmtree(folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "mdp_core.cli.main", *REDUCED],
        cwd=tmp_path,
        env={**os.environ},
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not list((tmp_path / ".mdp" / "store").glob(f"{stage}-fit/*/work/checkpoints/iter_*2.pt")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    fit = next((tmp_path / ".mdp" / "store").glob(f"{stage}-fit/*"))
    assert not (fit / "manifest.json").exists()
    again = mdp(*REDUCED)
    assert again.returncode == 0, again.stderr
    assert final_maps(tmp_path) == final_maps(undisturbed)
    statuses = {s["id"]: s["status"] for s in record(tmp_path)["steps"]}
    assert statuses["prior.mine[train]"] == "hit"
    assert statuses[f"{stage}.fit"] == "done"


def test_a_folder_of_photographs_without_labels(mdp: Call, tmp_path: Path) -> None:
    from mdp_datasets.scenes import scene

    (tmp_path / "my photos" / "2024").mkdir(parents=True)
    for i in range(6):
        image = scene(3, i, "easy", 80, (1, 1)).image
        Image.fromarray(image[: 60 + 4 * (i % 2)]).save(tmp_path / "my photos" / ("2024" if i % 2 else "") / f"{i}.jpg")
    settings = ["run", "folder", *REDUCED[4:]]
    done = mdp(
        *settings, "--set", "data.root=my photos", "--set", "prior.weights=builtin:random", "--set", "prior.centre_keys=true",
        "--set", "clusterer.embed.weights=builtin:random", "--set", "clusterer.clusters=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Component table" not in done.stdout
    run = newest_run(tmp_path)
    assert sorted(str(p.relative_to(run / "label_maps")) for p in (run / "label_maps").rglob("*.png")) == [
        "0.jpg.png", "2.jpg.png", "2024/1.jpg.png", "2024/3.jpg.png", "2024/5.jpg.png", "4.jpg.png",
    ]  # fmt: skip
    assert np.array(Image.open(run / "label_maps" / "0.jpg.png")).shape == (60, 80)
    assert np.array(Image.open(run / "label_maps" / "2024" / "1.jpg.png")).shape == (64, 80)
    assert (run / "stages.png").stat().st_size > 0


def test_real_photographs(mdp: Call, tmp_path: Path, voc_root: Path) -> None:
    """A few photographs of a VOCdevkit through the CPU-sized recipe, with real label files."""
    lists = tmp_path / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug"):
        (tmp_path / "VOC2012" / folder).symlink_to(voc_root / "VOC2012" / folder)
    for split, count in (("trainaug", 12), ("val", 6)):
        names = (voc_root / "VOC2012" / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()
        (lists / f"{split}.txt").write_text("\n".join(names[:count]) + "\n")
    done = mdp(
        "run", "voc-animals", "--set", "detector.fit.iters=2", "--set", "segmenter.fit.iters=2", "--set", "clusterer.clusters=3",
        env={"VOC_ROOT": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = record(tmp_path)
    assert len(run["results"]["components"]) == 3
    assert run["images"]["eval"]["count"] == 6
