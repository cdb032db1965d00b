"""Streaming confusion counts of a split as large as PASCAL VOC val: 1,449 images of 500×375 px, 21 classes.

Generated maps (blobs of classes, ragged borders, 5 % ignored) are counted in three ways in one process, in turns: a literal one with
numpy (a boolean mask a pair of label and class), the one-liner that most code has (masks and one ``bincount``), and ours. The counts
must be equal. Then the maps are written as palette PNGs, and ours is timed from the files to the scores.

    python benchmarks/confusion.py
    python benchmarks/confusion.py --images 300
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mdp_core.data.label_map import LabelMap
from mdp_core.evaluation.confusion import Confusion
from mdp_core.evaluation.semantic import SemanticResult, evaluate

CLASSES, HEIGHT, WIDTH = 21, 375, 500
LIMIT = 10.0
DISTINCT = 64
"""Maps that are held in memory; the split goes round them."""
LITERAL = 40
"""Images of the literal way, whose time is scaled up: it needs half a minute or more for all."""

Pair = tuple[LabelMap, LabelMap]
T = TypeVar("T")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1449, help="of the split (default: 1449)")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    pairs = [pair(rng) for _ in range(DISTINCT)]
    print(f"{options.images} images of {WIDTH}×{HEIGHT} px, {CLASSES} classes, {os.cpu_count()} processors")
    literal, counts = seconds(lambda: total(literal_counts, pairs, LITERAL))
    literal *= options.images / LITERAL
    usual, usual_counts = seconds(lambda: total(usual_way, pairs, options.images))
    ours, confusion = seconds(lambda: streamed(pairs, options.images))
    check = streamed(pairs, LITERAL)
    if not (np.array_equal(check.counts, counts) and np.array_equal(confusion.counts, usual_counts)):
        print("the counts DIFFER")
        return 1
    print(f"maps in memory: a mask a pair {literal:.1f} s (scaled up from {LITERAL} images), masks and bincount {usual:.2f} s,")
    print(f"  ours {ours:.2f} s: {literal / ours:.0f} and {usual / ours:.1f} times as fast; the counts are equal")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), pairs, options.images)
        whole, _ = seconds(lambda: from_disk(Path(folder), options.images))
    print(
        f"from palette PNGs on disk to scores, on one core: {whole:.2f} s, {'within' if whole <= LIMIT else 'ABOVE'} {LIMIT:g} s"
    )
    return 0 if whole <= LIMIT else 1


def pair(rng: np.random.Generator) -> Pair:
    """Returns a prediction and a truth that agree on most pixels."""
    coarse = rng.integers(0, CLASSES, (6, 8)) * rng.integers(0, 2, (6, 8))
    truth = np.kron(coarse, np.ones((63, 63)))[:HEIGHT, :WIDTH].astype(np.uint8)
    prediction = np.roll(truth, rng.integers(-12, 12, 2), axis=(0, 1))
    edge = np.abs(np.diff(truth.astype(np.int16), axis=1, prepend=0)) > 0
    truth[edge | np.roll(edge, 2, axis=1) | np.roll(edge, -2, axis=1)] = 255
    ragged = rng.integers(0, 12, HEIGHT)
    for row, shift in enumerate(ragged):
        prediction[row] = np.roll(prediction[row], shift)
    return LabelMap(prediction), LabelMap(truth)


def literal_counts(prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.int64]:
    counts = np.zeros((CLASSES, CLASSES), np.int64)
    for label in range(CLASSES):
        for true in range(CLASSES):
            counts[label, true] = np.count_nonzero((prediction == label) & (truth == true))
    return counts


def usual_way(prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.int64]:
    valid = (truth >= 0) & (truth < CLASSES)
    keys = CLASSES * prediction[valid].astype(int) + truth[valid]
    return np.bincount(keys, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def total(
    way: Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.int64]], pairs: list[Pair], images: int
) -> NDArray[np.int64]:
    counts = np.zeros((CLASSES, CLASSES), np.int64)
    for index in range(images):
        prediction, truth = pairs[index % len(pairs)]
        counts += way(prediction.values, truth.values)
    return counts


def streamed(pairs: list[Pair], images: int) -> Confusion:
    confusion = Confusion(CLASSES - 1, CLASSES)
    for index in range(images):
        confusion.add("", *pairs[index % len(pairs)])
    return confusion


def write(folder: Path, pairs: list[Pair], images: int) -> None:
    written = [[side.to_png() for side in pair] for pair in pairs]
    for index in range(images):
        for side, content in enumerate(written[index % len(pairs)]):
            (folder / f"{index}-{side}.png").write_bytes(content)


def from_disk(folder: Path, images: int) -> SemanticResult:
    confusion = Confusion(CLASSES - 1, CLASSES)
    for index in range(images):
        prediction, truth = (LabelMap.from_png(folder / f"{index}-{side}.png") for side in (0, 1))
        confusion.add(str(index), prediction, truth)
    return evaluate(confusion, [str(c) for c in range(CLASSES)], split="val", seed=0)


def seconds(work: Callable[[], T]) -> tuple[float, T]:
    before = time.perf_counter()
    done = work()
    return time.perf_counter() - before, done


if __name__ == "__main__":
    raise SystemExit(main())
