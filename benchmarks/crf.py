"""Dense CRF: pydensecrf with all 21 labels in one process against ours with two workers of one thread, on the same photographs.

VOC_ROOT=… python benchmarks/crf.py [--images 20] [--workers 2] [--noise 8]   (needs pip install "mdp-platform[crf]")

Class maps of the val split are moved, coarsened to 1/8, blurred and mixed with noise until they look like the probabilities of a mediocre
network with 21 labels. Both sides start from the same float16 probabilities and the same pixels in memory. The time of pydensecrf
is that of its own calls alone (its unaries are prepared for it), ours includes everything.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import numpy as np

from mdp_core.api import Context, ImageRecord, Images, LabelMap, read_image
from mdp_crf.mean_field import bilateral
from mdp_refine.dense_crf import DenseCrf, by_pydensecrf
from mdp_refine.settings import DenseCrfConfig
from mdp_refine.unary import from_probabilities

LABELS = 21


@dataclass(frozen=True)
class Case:
    """A photograph and what a network may have thought of it."""

    id: str
    pixels: np.ndarray
    truth: np.ndarray
    prediction: LabelMap


def cases(root: Path, count: int, noise: float) -> list[Case]:
    """Returns ``count`` photographs, evenly spaced over the val split."""
    voc = root / "VOC2012"
    ids = (voc / "ImageSets/Segmentation/val.txt").read_text().split()
    made = []
    for number, image_id in enumerate(ids[:: max(1, len(ids) // count)][:count]):
        truth = LabelMap.from_png(voc / f"SegmentationClass/{image_id}.png").values
        probabilities = corrupted(truth, np.random.default_rng(number), noise)
        values = np.zeros(truth.shape, np.uint8)
        made.append(Case(image_id, read_image(voc / f"JPEGImages/{image_id}.jpg"), truth, LabelMap(values, probabilities)))
    return made


def corrupted(truth: np.ndarray, random: np.random.Generator, noise: float) -> np.ndarray:
    """Returns float16 (21, H/8, W/8) made from a class map."""
    height, width = truth.shape
    small = cv2.resize(np.where(truth == 255, 0, truth), (width // 8, height // 8), interpolation=cv2.INTER_NEAREST)
    small = np.roll(small, random.integers(-2, 3, 2), (0, 1))
    logits = 8 * cv2.GaussianBlur(np.eye(LABELS, dtype=np.float32)[small], (0, 0), 2)
    logits += noise * cv2.GaussianBlur(random.standard_normal(logits.shape, dtype=np.float32), (0, 0), 3)
    odds = np.exp(logits - logits.max(2, keepdims=True))
    return (odds / odds.sum(2, keepdims=True)).transpose(2, 0, 1).astype(np.float16)


def ours(case: Case) -> np.ndarray:
    """Returns the labels by the stage with its defaults."""
    images = Images([ImageRecord(case.id, *case.truth.shape)], lambda _: case.pixels)
    (refined,) = DenseCrf(DenseCrfConfig(), Context()).refine(images, [case.prediction])
    return refined.values


def timed(case: Case) -> tuple[np.ndarray, float]:
    """Returns the labels and the seconds of processor time."""
    before = time.process_time()
    return ours(case), time.process_time() - before


def start_worker() -> None:
    """Gives a worker one thread, and makes it import everything before the clock starts."""
    cv2.setNumThreads(1)
    halves = LabelMap(np.zeros((8, 8), np.uint8), np.eye(2, dtype=np.float16)[..., None])
    ours(Case("", np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8)), halves))


def by_us(made: list[Case], workers: int) -> tuple[list[np.ndarray], float, float]:
    """Returns the labels, the images a second, and the processor seconds of an image."""
    with multiprocessing.get_context("spawn").Pool(workers, start_worker) as pool:
        pool.map(abs, range(workers * 4), 1)
        started = time.perf_counter()
        done = pool.map(timed, made, 1)
        seconds = time.perf_counter() - started
    return [labels for labels, _ in done], len(made) / seconds, sum(spent for _, spent in done) / len(made)


def by_them(made: list[Case]) -> tuple[list[np.ndarray], float, float]:
    """Returns the same of pydensecrf with all labels, whose unaries are prepared before the clock starts."""
    labels, wall, processor = [], 0.0, 0.0
    for case in made:
        energies = from_probabilities(case.prediction.probabilities, case.truth.shape).energies
        started, before = time.perf_counter(), time.process_time()
        labels.append(by_pydensecrf(case.pixels, energies, DenseCrfConfig()).argmax(1).reshape(case.truth.shape))
        wall += time.perf_counter() - started
        processor += time.process_time() - before
    return labels, len(made) / wall, processor / len(made)


def right(case: Case, labels: np.ndarray) -> float:
    """Returns the share of right pixels among those that count."""
    counts = case.truth != 255
    return float((labels[counts] == case.truth[counts]).mean())


def main() -> None:
    """Prints both speeds, their ratio, and how far they agree."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--images", type=int, default=20)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--noise", type=float, default=8.0)
    given = options.parse_args()
    cv2.setNumThreads(1)
    made = cases(Path(os.environ["VOC_ROOT"]), given.images, given.noise)
    reference, theirs, their_seconds = by_them(made)
    labels, speed, seconds = by_us(made, given.workers)
    unaries = [from_probabilities(c.prediction.probabilities, c.truth.shape, floor=DenseCrfConfig().label_floor) for c in made]
    before = [u.labels[u.energies.argmin(1)].reshape(c.truth.shape) for c, u in zip(made, unaries, strict=True)]
    started = time.process_time()
    for case in made:
        bilateral(case.pixels, 4, 67, 3)
    lattices = (time.process_time() - started) / len(made)
    differs = [float((a != b).mean()) for a, b in zip(labels, reference, strict=True)]
    print(f"{len(made)} images, {np.mean([len(u.labels) for u in unaries]):.1f} of {LABELS} labels take part on average")
    print(f"pydensecrf, {LABELS} labels, one process: {theirs:.2f} images/s, {their_seconds:.2f} processor seconds an image")
    print(f"builtin, {given.workers} workers of one thread: {speed:.2f} images/s, {seconds:.2f} processor seconds an image")
    print(f"  of these, building the lattice takes {lattices:.2f}")
    print(
        f"ratio {speed / theirs:.1f} in images/s; {given.workers * their_seconds / seconds:.1f} by processor seconds, as if nothing else ran"
    )
    print(f"pixels with another label: {np.mean(differs):.3%} on average, {max(differs):.3%} in the worst image")
    print(
        f"right pixels: {np.mean([right(c, b) for c, b in zip(made, before, strict=True)]):.1%} before, "
        f"{np.mean([right(c, b) for c, b in zip(made, labels, strict=True)]):.1%} after"
    )


if __name__ == "__main__":
    main()
