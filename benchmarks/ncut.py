"""TokenCut and MaskCut: a literal version with dense ``scipy.linalg.eigh(D - W, D)`` against ours, from features to masks of patches.

VOC_ROOT=… OMP_NUM_THREADS=1 python benchmarks/ncut.py [--side 480] [--photograph 0] [--repeats 3]

Grouping alone is timed: the network and the CRF cost the same on both sides. Both start from the same keys of one image, those of
builtin:tiny for a photograph of VOC_ROOT (a drawn scene where it is not set) at 480 × 480, which is 3,600 patches of 8 × 8. The literal
version normalises, thresholds and solves as published, once for tokencut and three times for maskcut, with the same rule for the
arbitrary sign of an eigenvector on both sides. All is done by one thread. The masks must be the same.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from scipy import ndimage
from scipy.linalg import eigh

from mdp_backbones.preprocess import resize, to_input
from mdp_backbones.weights import load_vit
from mdp_core.api import Context, Pixels, read_image
from mdp_dino import maskcut, tokencut
from mdp_dino.ncut import cohesion, threshold_graph, unit

EPS = 1e-5
LIMIT = 20
Masks = list[np.ndarray]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=480, help="of the square image, in pixels (default: 480)")
    parser.add_argument("--photograph", type=int, default=0, help="which one of VOC_ROOT, counted from 0 in the order of names")
    parser.add_argument("--repeats", type=int, default=3, help="of ours, whose median counts; the literal version runs once")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keys, grid = keys_of(photograph(options.photograph), options.side)
    print(f"{len(keys):,} patches of {keys.shape[1]} numbers")
    enough = True
    for name, ours, literal in (
        ("tokencut", lambda: our_tokencut(keys, grid), lambda: literal_tokencut(keys.numpy(), grid)),
        ("maskcut", lambda: our_maskcut(keys, grid), lambda: literal_maskcut(keys.numpy(), grid)),
    ):
        enough &= compare(name, ours, literal, options.repeats)
    return 0 if enough else 1


def compare(name: str, ours: Callable[[], Masks], literal: Callable[[], Masks], repeats: int) -> bool:
    """Times both and prints their ratio; returns whether the masks are the same and the ratio is large enough."""
    found = ours()
    mine = [seconds(ours)[1] for _ in range(repeats)]
    wanted, theirs = seconds(literal)
    same = len(found) == len(wanted) and all((one == other).all() for one, other in zip(found, wanted, strict=True))
    wall, cpu = (statistics.median(times[clock] for times in mine) for clock in (0, 1))
    print(
        f"{name}, grouping alone, wall clock: literal {theirs[0]:.1f} s, ours {wall:.2f} s, ratio {theirs[0] / wall:.0f}; "
        f"CPU time: literal {theirs[1]:.1f} s, ours {cpu:.2f} s, ratio {theirs[1] / cpu:.0f}"
    )
    print(f"  {len(wanted)} masks of {[int(mask.sum()) for mask in wanted]} patches, {'the same' if same else 'NOT THE SAME'}")
    return same and theirs[0] / wall >= LIMIT


def seconds(work: Callable[[], Masks]) -> tuple[Masks, tuple[float, float]]:
    """Returns what a call gave, with its seconds by the clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, (time.perf_counter() - wall, time.process_time() - cpu)


def photograph(number: int) -> Pixels:
    """Returns a photograph of VOC_ROOT, or two discs before noise."""
    paths = sorted(Path(os.environ.get("VOC_ROOT", "/nowhere")).rglob("JPEGImages/*.jpg"))
    if paths:
        print(f"photograph {paths[number].name}")
        return read_image(paths[number])
    print("a drawn scene")
    pixels = np.random.default_rng(0).integers(90, 140, (375, 500, 3), dtype=np.uint8)
    y, x = np.ogrid[:375, :500]
    pixels[(y - 150) ** 2 + (x - 160) ** 2 < 90**2] = (200, 60, 40)
    pixels[(y - 240) ** 2 + (x - 370) ** 2 < 70**2] = (40, 90, 200)
    return pixels


def keys_of(pixels: Pixels, side: int) -> tuple[torch.Tensor, tuple[int, int]]:
    """Returns float32 (N, d), the keys of a square picture with their mean taken away, and (rows, columns)."""
    reader = load_vit("builtin:tiny", Context()).reader
    block = reader.read(to_input([resize(pixels, side, side)], reader.device), -1, ("k",))
    keys = block.values["k"].patches[0]
    return keys - keys.mean(dim=0), block.grid


def our_tokencut(keys: torch.Tensor, grid: tuple[int, int]) -> Masks:
    """Everything between the keys and the mask with its score."""
    graph = threshold_graph(unit(keys), 0.2, EPS)
    mask = tokencut.object_patches(graph, grid)
    cohesion(graph, mask.ravel())
    return [mask]


def our_maskcut(keys: torch.Tensor, grid: tuple[int, int]) -> Masks:
    """Everything between the keys and the masks of patches with their scores."""
    return [part.mask for part in maskcut.object_parts(threshold_graph(unit(keys), 0.15, EPS), grid, eps=EPS, count=3)]


def literal_vector(keys: np.ndarray, tau: float) -> np.ndarray:
    """The graph and its second smallest eigenvector, as published; its peak is made positive."""
    normal = keys / np.maximum(np.linalg.norm(keys, axis=1, keepdims=True), 1e-12)
    graph = np.where((normal @ normal.T) > tau, 1.0, EPS)
    degrees = np.diag(graph.sum(axis=1))
    _, vectors = eigh(degrees - graph, degrees, subset_by_index=[1, 2])
    return vectors[:, 0] * np.sign(vectors[np.argmax(np.abs(vectors[:, 0])), 0])


def part_of(side: np.ndarray, seed: int) -> np.ndarray:
    """The 4-connected part that holds the seed."""
    labels, _ = ndimage.label(side)
    return labels == labels.flat[seed]


def literal_tokencut(keys: np.ndarray, grid: tuple[int, int]) -> Masks:
    vector = literal_vector(keys, 0.2)
    return [part_of((vector > vector.mean()).reshape(grid), int(np.argmax(vector)))]


def literal_maskcut(keys: np.ndarray, grid: tuple[int, int]) -> Masks:
    found: Masks = []
    before, taken = np.zeros(grid, bool), np.zeros(grid, bool)
    for number in range(3):
        vector = literal_vector(np.where(taken.ravel()[:, None], 0, keys), 0.15)
        side = (vector > vector.mean()).reshape(grid)
        if side[[0, 0, -1, -1], [0, -1, 0, -1]].sum() >= 3:
            side, vector = ~side, -vector
        mask = part_of(side, int(np.argmax(vector)))
        if number and ((mask & before).sum() > 0.5 * (mask | before).sum() or mask.mean() <= 0.01):
            continue
        found.append(mask & ~taken)
        before, taken = mask, taken | mask
    return found


if __name__ == "__main__":
    sys.exit(main())
