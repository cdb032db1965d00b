"""Two worker processes against one: mining with one thread each.

    OMP_NUM_THREADS=1 python benchmarks/executors.py

Mines the masks of generated scenes with ``dino-affinity`` (ViT-S/16 of random weights: the arithmetic of trained ones) with
``--executor serial`` and with ``--workers 2`` in turn, and compares the parts byte by byte. The time is that of the step, the start
of the workers and the loading of weights included. Limit of the project: 1.7 on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RECIPE = """
name: mining
data: {{use: shapes, size: {side}, train_images: {images}, val_images: 1}}
pipeline: {{prior: {{use: dino-affinity, weights: "file:{weights}", short_side: {side}, batch: 4}}}}
"""


def random_weights(path: Path) -> Path:
    """Writes a ViT-S/16 of random weights."""
    import timm
    import torch

    from mdp_backbones.checkpoint import Card, save_backbone

    torch.manual_seed(0)
    arch = "vit_small_patch16_224"
    save_backbone(path, timm.create_model(arch, num_classes=0).state_dict(), Card(arch=arch))
    return path


def mined(folder: Path, recipe: Path, home: str, *arguments: str, shard_size: int) -> tuple[float, str]:
    """Returns the seconds of the step and the sha256 of all parts."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MDP_SHARD_SIZE": str(shard_size)}
    command = [sys.executable, "-m", "mdp_core.cli.main", "run", str(recipe), "--home", home, "--no-track", *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    record = json.loads(next((folder / home / "runs").glob("*/run.json")).read_text())
    total = hashlib.sha256()
    for part in sorted((folder / home / "store" / "prior-mine").glob("*/parts/*.parquet")):
        total.update(part.read_bytes())
    return next(s["seconds"] for s in record["steps"] if s["id"] == "prior.mine[train]"), total.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--shard-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = folder / "recipe.yaml"
        weights = random_weights(folder / "vit.safetensors")
        recipe.write_text(RECIPE.format(side=options.side, images=options.images, weights=weights))
        for repeat in range(options.repeats):
            one, parts = mined(folder, recipe, f"serial-{repeat}", "--executor", "serial", shard_size=options.shard_size)
            two, same = mined(folder, recipe, f"process-{repeat}", "--workers", "2", shard_size=options.shard_size)
            ratios.append(one / two)
            print(
                f"serial {one:.2f} s, two workers {two:.2f} s, ratio {one / two:.3f}, parts {'equal' if parts == same else 'DIFFER'}",
                flush=True,
            )
            if parts != same:
                raise SystemExit(1)
    print(f"median ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
