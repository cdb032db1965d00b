"""What the engine itself costs: a pipeline of all stages whose plugins do nothing.

    python benchmarks/engine.py

Measures, with the executor ``serial``: a step (worker processes and the nursery that starts them included), a shard, a whole
run, and the same run again with everything in the store. Limits of the project: 50 ms a step, 5 ms a shard, 3 s for a cached run.

A run with one shard a step and one with a shard an image do the same otherwise, so a shard costs their difference.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PLUGIN = """
import numpy as np
from mdp_core.api import *

class Config(StageConfig):
    pass

class Accepting(RefinerConfig):
    pass

class Prior(GroupingPrior[Config]):
    Config = Config
    def mine(self, images):
        for r in images.records:
            mask = np.zeros((1, r.height, r.width), bool)
            mask[0, 2:6, 2:6] = True
            yield Instances.from_masks(mask)

class Cluster(Clusterer[Config]):
    Config = Config
    def embed(self, images, instances):
        for found in instances:
            yield np.ones((len(found), 4), np.float32)
    def fit(self, embeddings, folder):
        (folder / "none").write_text("")
        return 2
    def assign(self, folder, embeddings):
        return np.zeros(len(embeddings), np.int32)

class Detect(Detector[Config]):
    Config = Config
    def fit(self, images, instances, clusters, folder, work):
        (folder / "none").write_text("")
    def predict(self, folder, images):
        for r in images.records:
            mask = np.zeros((1, r.height, r.width), bool)
            mask[0, 2:6, 2:6] = True
            yield Instances.from_masks(mask, labels=[0], scores=[1.0])

class Refine(Refiner[Accepting]):
    Config = Accepting
    def refine(self, images, predictions):
        for found in predictions:
            yield LabelMap.paint(found)

class Segment(Segmenter[Config]):
    Config = Config
    def fit(self, images, label_maps, clusters, folder, work):
        (folder / "none").write_text("")
    def predict(self, folder, images):
        for r in images.records:
            yield LabelMap(np.zeros((r.height, r.width), np.uint8))

@hookimpl
def mdp_register(registry):
    registry.add("prior", "nothing", factory=":Prior")
    registry.add("clusterer", "nothing", factory=":Cluster")
    registry.add("detector", "nothing", factory=":Detect")
    registry.add("refiner", "nothing", factory=":Refine")
    registry.add("segmenter", "nothing", factory=":Segment")
"""

RECIPE = """
name: nothing
data: {use: shapes, size: 32, train_images: %d, val_images: %d}
pipeline: {prior: {use: nothing}, clusterer: {use: nothing}, detector: {use: nothing}, refiner: {use: nothing}, segmenter: {use: nothing}}
evaluate: [clustering]
"""


def timed(folder: Path, *arguments: str, images: int, shard_size: int = 256) -> tuple[float, dict]:
    """Runs the recipe and returns the wall time of the whole command, and the run's record."""
    (folder / "recipe.yaml").write_text(RECIPE % (images, images))
    env = {**os.environ, "MDP_SHARD_SIZE": str(shard_size)}
    command = [
        sys.executable,
        "-m",
        "mdp_core.cli.main",
        "run",
        "recipe.yaml",
        "--plugin",
        "nothing.py",
        "--no-track",
        *arguments,
    ]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    newest = max((folder / ".mdp" / "runs").glob("*/run.json"))
    return seconds, json.loads(newest.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--images", type=int, default=200, help="images of each split; with one image a shard the number of shards"
    )
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows: dict[str, list[float]] = {}

    def note(label: str, value: float) -> None:
        rows.setdefault(label, []).append(value)

    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "nothing.py").write_text(PLUGIN)
            wall, record = timed(folder, images=4)
            seconds = [s["seconds"] for s in record["steps"]]
            note("first run, s", wall)
            note("a step, mean, ms", statistics.mean(seconds) * 1e3)
            note("a step, median, ms", statistics.median(seconds) * 1e3)
            note("the slowest step (it starts the workers' nursery), ms", max(seconds) * 1e3)
            cached, record = timed(folder, images=4)
            assert all(s["status"] == "hit" for s in record["steps"])
            note("cached run, s", cached)
            _, few = timed(folder, images=options.images)
            _, many = timed(folder, "--set", "data.seed=1", images=options.images, shard_size=1)
            ids = [s["id"] for s in few["steps"] if s["kind"] != "evaluate" and s["step"] != "fit"]
            spent = {
                kind: sum(s["seconds"] for s in run["steps"] if s["id"] in ids) for kind, run in (("few", few), ("many", many))
            }
            note("a shard, ms", (spent["many"] - spent["few"]) / (len(ids) * (options.images - 1)) * 1e3)
    for label, values in rows.items():
        print(f"{label:<56} median {statistics.median(values):8.2f}   {[round(v, 2) for v in values]}")


if __name__ == "__main__":
    main()
