"""How long it takes to plan a large dataset, once its images are known.

Makes a folder of ``--images`` small photographs (a few hundred different ones, hard links for the rest), then times ``mdp plan``
in a process of its own: the first time, when each file is opened, and afterwards. It ends with a profile of the phases.

    python benchmarks/planning.py --images 118000 --folder /tmp/mdp-planning
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

RECIPE = """\
name: planning
data: {{use: folder, root: {root}}}
pipeline:
  prior: {{use: dino-affinity, weights: builtin:tiny, centre_keys: true}}
  clusterer: {{use: kmeans, clusters: 20, embed: {{weights: builtin:tiny}}}}
  detector: {{use: mask-rcnn}}
  refiner: {{use: confidence}}
  segmenter: {{use: deeplabv3}}
"""
DISTINCT, PER_FOLDER = 400, 10_000


def make_images(root: Path, count: int) -> None:
    """Makes the folder, unless it is there: JPEGs of 64 × 48 pixels, ten thousand a folder."""
    if root.is_dir() and sum(len(files) for _, _, files in os.walk(root)) == count:
        return
    shutil.rmtree(root, ignore_errors=True)
    rng = np.random.default_rng(0)
    first: list[Path] = []
    for index in range(count):
        path = root / f"{index // PER_FOLDER:03d}" / f"{index:012d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index < DISTINCT:
            Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)
            first.append(path)
        else:
            os.link(first[index % DISTINCT], path)


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return taken


def phases(recipe: Path, home: Path) -> dict[str, float]:
    """Times what planning consists of, in this process."""
    marks = [("", time.perf_counter())]

    def mark(name: str) -> None:
        marks.append((name, time.perf_counter()))

    from mdp_core.cli.run import load
    from mdp_core.engine.planner import make_plan
    from mdp_core.engine.scan import Scanner
    from mdp_core.stages.base import Context

    mark("imports")
    loaded, host = load(str(recipe), [], [])
    mark("plugins and recipe")
    data = loaded.recipe.data
    dataset = host.create("dataset", data.use, data.config.model_dump(mode="json"), Context())
    sources = list(dataset.sources("all"))
    mark("list the folder")
    images = Scanner(home / "store" / "scans").scan(dataset, "folder 1", "all")
    mark("list, stat and fingerprint")
    plan = make_plan(loaded.recipe, host, {"train": images})
    with suppress(ImportError):
        from mdp_core.engine.cache import Cache
        from mdp_core.engine.forecast import forecast

        forecast(plan, loaded.recipe, {"train": images}, Cache(home))
    mark("plan and forecast")
    print(f"{len(sources)} images, {len(plan.steps)} steps")
    return {name: end - start for (_, start), (name, end) in itertools.pairwise(marks)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/mdp-planning"))
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    root, home, recipe = given.folder / "images", given.folder / "home", given.folder / "recipe.yaml"
    make_images(root, given.images)
    recipe.write_text(RECIPE.format(root=root))
    shutil.rmtree(home, ignore_errors=True)
    command = [sys.executable, "-m", "mdp_core.cli.main", "plan", str(recipe), "--home", str(home)]
    print(f"first fingerprint and plan: {seconds(command):.1f} s")
    print("plan afterwards:", ", ".join(f"{seconds(command):.2f} s" for _ in range(given.repeat)))
    for name, taken in phases(recipe, home).items():
        print(f"  {name:<28} {taken:6.2f} s")
    memory = sum(f.stat().st_size for f in (home / "store" / "scans").iterdir())
    print(f"memory of the scan: {memory / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
