"""The handcrafted priors on trees of regions, from image files to run lengths: images a second on one core, against a floor of 5.

Generated scenes of 500×375 px are written as JPEG files (a lit background, textured objects, noise as of a camera), or --images names
a folder of photographs. Everything that mine() does counts, reading included. ``SLIC alone`` is scikit-image's function on the same
pixels and at the same size, which no prior on it can beat. Speeds are by processor time; on an idle machine wall clock is the same.

    python benchmarks/superpixel.py
    python benchmarks/superpixel.py --images PHOTOS --count 50
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.segmentation import slic

from mdp_core.api import Context, GroupingPrior, ImageRecord, Images, Instances, Pixels, read_image
from mdp_handcrafted.hierarchy import Hierarchy
from mdp_handcrafted.region_prior import shrunk
from mdp_handcrafted.settings.hierarchy import HierarchyConfig
from mdp_handcrafted.settings.superpixel import SuperpixelConfig
from mdp_handcrafted.superpixel import Superpixel

FLOOR = 5.0
HEIGHT, WIDTH = 375, 500


@dataclass(frozen=True)
class Timed:
    """Seconds an image, and what was found."""

    processor: list[float]
    wall: list[float]
    found: list[Instances]

    def speed(self) -> float:
        """Images a second of processor time."""
        return len(self.processor) / sum(self.processor)


def main() -> int:
    """Prints a line a prior; returns 1 where SLIC with its defaults is below the floor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of photographs instead of generated scenes")
    parser.add_argument("--count", type=int, default=20, help="images (default: 20)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.images is None:
            write_scenes(Path(folder), options.count)
        paths = sorted((options.images or Path(folder)).glob("*.jpg"))
        images = opened(paths[:: max(1, len(paths) // options.count)][: options.count])
        if not len(images):
            print(f"{options.images}: no *.jpg in it", file=sys.stderr)
            return 2
        return compare(images)


def compare(images: Images) -> int:
    """Times all priors on the same files."""
    sides = [max(record.height, record.width) for record in images.records]
    print(f"{len(images)} images, longer side {min(sides)} to {max(sides)} px, one thread")
    context = Context()
    superpixel = timed(Superpixel(SuperpixelConfig(), context), images)
    others: dict[str, GroupingPrior] = {
        "superpixel, slic, max_side 500": Superpixel(SuperpixelConfig(max_side=500), context),
        "superpixel, slic, 100 segments": Superpixel(SuperpixelConfig.model_validate({"slic": {"segments": 100}}), context),
        "superpixel, slic, 10 masks": Superpixel(SuperpixelConfig(masks=10), context),
        "superpixel, felzenszwalb": Superpixel(SuperpixelConfig(method="felzenszwalb"), context),
        "superpixel, felzenszwalb, max_side 500": Superpixel(SuperpixelConfig(method="felzenszwalb", max_side=500), context),
        "hierarchy": Hierarchy(HierarchyConfig(), context),
        "hierarchy, max_side 500": Hierarchy(HierarchyConfig(max_side=500), context),
    }
    report("superpixel, slic (defaults)", superpixel)
    for name, prior in others.items():
        result = timed(prior, images)
        overlap = (
            f", mask IoU with the defaults: median {agreement(superpixel, result):.2f}"
            if name.endswith("slic, max_side 500")
            else ""
        )
        report(name, result, overlap)
    for side in (SuperpixelConfig().max_side, 500):
        seconds = [processor_seconds(partial(slic, shrunk(pixels, side), n_segments=400)) for pixels in images]
        print(f"{f'SLIC alone, max_side {side}':40} {len(seconds) / sum(seconds):5.1f} images/s")
    met = superpixel.speed() >= FLOOR
    print(f"superpixel with SLIC: {superpixel.speed():.1f} images/s, {'at least' if met else 'BELOW'} {FLOOR:g}")
    return 0 if met else 1


def timed(prior: GroupingPrior, images: Images) -> Timed:
    """Mines images one by one, after one that is not counted."""
    list(prior.mine(images.subset([0])))
    result = Timed([], [], [])
    for index in range(len(images)):
        wall, processor = time.perf_counter(), time.process_time()
        result.found.extend(prior.mine(images.subset([index])))
        result.wall.append(time.perf_counter() - wall)
        result.processor.append(time.process_time() - processor)
    return result


def report(name: str, result: Timed, more: str = "") -> None:
    """Prints a line."""
    empty = sum(not len(found) for found in result.found)
    print(
        f"{name:40} {result.speed():5.1f} images/s, median {statistics.median(result.processor):.3f} s of processor time "
        f"({statistics.median(result.wall):.3f} s of wall clock) an image, {empty} without a mask{more}"
    )


def agreement(first: Timed, second: Timed) -> float:
    """Returns the median IoU of the best masks, over the images where both have one."""
    both = [(a.mask(0), b.mask(0)) for a, b in zip(first.found, second.found, strict=True) if len(a) and len(b)]
    return statistics.median(float((a & b).sum() / (a | b).sum()) for a, b in both) if both else float("nan")


def processor_seconds(work: Callable[[], object]) -> float:
    """Returns the seconds of processor time of one call."""
    before = time.process_time()
    work()
    return time.process_time() - before


def opened(paths: Sequence[Path]) -> Images:
    """Returns image files as a plugin sees them; they are read each time."""
    records = []
    for path in paths:
        height, width = read_image(path).shape[:2]
        records.append(ImageRecord(path.name, height, width, str(path)))
    return Images(records, lambda record: read_image(str(record.path)))


def write_scenes(folder: Path, count: int) -> None:
    """Writes generated scenes as JPEG files."""
    for number in range(count):
        Image.fromarray(scene(np.random.default_rng(number))).save(folder / f"{number:03}.jpg", quality=92)


def scene(random: np.random.Generator) -> Pixels:
    """Returns a lit, textured background with a few textured blobs, blurred as by a lens, with the noise of a camera."""
    pixels = random.uniform(60, 190, 3) + 60 * rough(random, 60)[..., None] + 12 * rough(random, 3)[..., None]
    for _ in range(int(random.integers(2, 7))):
        blob = rough(random, float(random.uniform(15, 45))) > random.uniform(1.0, 2.0)
        texture = 10 * rough(random, 2) + 25 * rough(random, 25)
        pixels = np.where(blob[..., None], random.uniform(20, 235, 3) + texture[..., None], pixels)
    lens = ndimage.gaussian_filter(pixels, (0.8, 0.8, 0))
    return np.clip(lens + random.normal(0, 4, lens.shape), 0, 255).astype(np.uint8)


def rough(random: np.random.Generator, scale: float) -> np.ndarray:
    """Returns smooth noise of ``scale`` pixels with mean 0 and deviation 1."""
    noise = ndimage.gaussian_filter(random.standard_normal((HEIGHT, WIDTH)), scale, mode="wrap")
    return (noise - noise.mean()) / noise.std()


if __name__ == "__main__":
    sys.exit(main())
