"""What ``lost`` costs beyond the network: blocks of signs against a literal version with the N × N affinities.

Both get the same random features, in one process, in turns; they must find the same mask. Memory is what each adds at its peak, in a
process of its own.

    python benchmarks/lost.py
    python benchmarks/lost.py --patches 1564 6400 --dim 384 --threads 2
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mdp_dino.lost import degrees, seeded

EXPAND = 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--patches", type=int, nargs="+", default=[744, 2120, 8480], help="500 × 375 and 640 px at patch 16, 640 px at patch 8"
    )
    parser.add_argument("--dim", type=int, default=384, help="width of the features (default: 384, ViT-S)")
    parser.add_argument("--repeats", type=int, default=5, help="timed pairs (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    parser.add_argument("--peak-of", choices=["blocks", "literal"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    same = True
    for patches in options.patches:
        features = torch.randn(patches, options.dim, generator=torch.Generator().manual_seed(0))
        if options.peak_of:
            print(peak_mib(lambda: {"blocks": blocks, "literal": literal}[options.peak_of](features)))  # noqa: B023
            return 0
        same &= compare(features, options.repeats)
        if sys.platform == "linux":
            one, other = (peak_apart(name, patches, options.dim) for name in ("blocks", "literal"))
            print(f"{patches} patches, peak memory added: blocks {one:.0f} MiB, literal {other:.0f} MiB")
    return 0 if same else 1


def blocks(features: Tensor) -> Tensor:
    return seeded(features, degrees(features), EXPAND).mask


def literal(features: Tensor) -> Tensor:
    """The paper's matrices, all of them."""
    affinity = features @ features.T
    positive = affinity.clone().fill_diagonal_(0) > 0
    lowest = positive.sum(dim=1).argsort(stable=True)[:EXPAND]
    similar = lowest[affinity[lowest[0], lowest] > 0]
    return affinity[similar].sum(dim=0) > 0


def compare(features: Tensor, repeats: int) -> bool:
    """Prints medians; returns whether the masks are the same but for sums within rounding of zero."""
    differ = int((blocks(features) != literal(features)).sum())
    times = [(seconds(lambda: blocks(features)), seconds(lambda: literal(features))) for _ in range(repeats)]
    one, other = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(slow / fast for fast, slow in times)
    print(
        f"{len(features)} patches: blocks {1e3 * one:.1f} ms, literal {1e3 * other:.1f} ms, ratio {ratio:.2f}, "
        f"{differ} patches differ"
    )
    return differ <= len(features) // 1000


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_apart(name: str, patches: int, dim: int) -> float:
    """Measures in a process of its own, because a process's peak never falls."""
    arguments = ["--peak-of", name, "--patches", str(patches), "--dim", str(dim)]
    return float(subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True).stdout)


def peak_mib(work: Callable[[], object]) -> float:
    """Returns how far resident memory rises above what it was (Linux: resets the kernel's peak mark first)."""
    torch.randn(64, 64) @ torch.randn(64, 64)  # the library's own buffers
    Path("/proc/self/clear_refs").write_text("5")
    before = status_mib("VmRSS")
    work()
    return status_mib("VmHWM") - before


def status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


if __name__ == "__main__":
    sys.exit(main())
