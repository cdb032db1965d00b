"""What mining costs beyond the network: time and memory of ``dino-affinity`` against the bare forward pass.

The network is a ViT-S/16 with random weights, which is as fast as a trained one. Mining is everything from pixels to run
lengths: resize, pad, normalise, forward, affinities, component, upsampling, encoding. The bare pass is the same network
on a ready tensor, up to the queries and keys of its last block. Both run in one process, in turns.

    python benchmarks/mining.py
    python benchmarks/mining.py --short-side 480 --repeats 15 --threads 2
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file

from mdp_backbones.preprocess import pad_to_multiple, resize, short_side_size, to_input
from mdp_core.api import Context, ImageRecord, Images
from mdp_dino.affinity import DinoAffinity
from mdp_dino.settings.affinity import DinoAffinityConfig

ARCH = "vit_small_patch16_224.dino"
LIMIT = 1.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short-side", type=int, default=640, help="pixels (default: 640)")
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), metavar=("H", "W"), help="of the image itself")
    parser.add_argument("--repeats", type=int, default=9, help="timed pairs (default: 9)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    parser.add_argument(
        "--memory",
        type=int,
        nargs="*",
        default=[320, 640, 960],
        metavar="SIDE",
        help="short sides whose peak memory to measure (Linux)",
    )
    parser.add_argument("--peak-of", choices=["bare", "mine"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        bare, mine, patches = prepare(Path(folder), options.short_side, tuple(options.size))
        if options.peak_of:
            print(work_peak_mib(bare if options.peak_of == "bare" else mine))
            return 0
    ratio = compare(
        bare, mine, options.repeats, f"{options.short_side} px short side, {patches} patches, {options.threads} threads"
    )
    for side in options.memory if sys.platform == "linux" else []:
        peaks = [peak_of(name, side, options) for name in ("bare", "mine")]
        print(f"peak memory above the loaded network, {side} px short side: bare {peaks[0]:.0f} MiB, mining {peaks[1]:.0f} MiB")
    return 0 if ratio <= LIMIT else 1


def prepare(folder: Path, short_side: int, size: tuple[int, int]) -> tuple[Callable[[], object], Callable[[], object], int]:
    """Returns the bare forward and the mining of one image, and the number of patches."""
    torch.manual_seed(0)
    save_file(timm.create_model(ARCH, num_classes=0).state_dict(), folder / "vit.safetensors")
    config = DinoAffinityConfig(weights=f"file:{folder / 'vit.safetensors'}", arch=ARCH, short_side=short_side)
    prior = DinoAffinity(config, Context())
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    images = Images([ImageRecord("noise", *size)], lambda _record: pixels)
    reader = prior.reader
    padded = pad_to_multiple(resize(pixels, *short_side_size(*size, short_side)), reader.patch)
    tensor = to_input([padded], reader.device)
    patches = padded.shape[0] * padded.shape[1] // reader.patch**2
    return lambda: reader.read(tensor, facets=("q", "k")), lambda: list(prior.mine(images)), patches


def compare(bare: Callable[[], object], mine: Callable[[], object], repeats: int, what: str) -> float:
    """Times both in turns and prints medians; returns the median of the pairs' wall-clock ratios."""
    bare(), mine()
    pairs = [(seconds(bare), seconds(mine)) for _ in range(repeats)]
    medians = []
    for clock, name in enumerate(("wall clock", "CPU time")):
        forward, mined = (statistics.median(times[clock] for times in column) for column in zip(*pairs, strict=True))
        medians.append(statistics.median(mined[clock] / forward[clock] for forward, mined in pairs))
        print(f"{what}, {name}: bare forward {forward:.3f} s, mining {mined:.3f} s, median ratio {medians[-1]:.3f}")
    print(f"wall clock ratio {'within' if medians[0] <= LIMIT else 'ABOVE'} {LIMIT} (on a busy machine, trust CPU time)")
    return medians[0]


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Returns wall-clock seconds and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_of(name: str, side: int, options: argparse.Namespace) -> float:
    """Measures in a process of its own, because a process's peak never falls."""
    size = [str(pixels) for pixels in options.size]
    arguments = ["--peak-of", name, "--short-side", str(side), "--threads", str(options.threads), "--size", *size]
    return float(subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True).stdout)


def work_peak_mib(work: Callable[[], object]) -> float:
    """Runs ``work`` and returns how far resident memory rose above what it was (Linux: resets the kernel's peak mark first)."""
    work()  # the first call allocates what every later one reuses: caches, thread buffers
    Path("/proc/self/clear_refs").write_text("5")
    before = status_mib("VmRSS")
    work()
    return status_mib("VmHWM") - before


def status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


if __name__ == "__main__":
    sys.exit(main())
