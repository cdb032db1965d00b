"""What the ViT reader costs beyond timm's own forward of the same blocks, and what batches of equal sizes gain.

The networks have random weights, which are as fast as trained ones. "Bare" is timm's patch embedding, positions and blocks,
and nothing else; the reader's side also projects the last block's queries and keys. Both run in one process, in turns; the
ratio is the median over the pairs. Where there is a GPU, images a second and the share of the card's matrix peak follow: the
operations are counted from the shapes, the peak is that of one large matrix product, measured in the same run.

    python benchmarks/reader.py
    python benchmarks/reader.py --short-side 320 --repeats 15 --threads 2
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

from mdp_backbones.preprocess import pad_to_multiple, resize, short_side_size, to_input
from mdp_backbones.vit import Precision, VitReader

ARCHS = ("vit_small_patch16_224.dino", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3")
MAIN = ARCHS[0]
LIMIT = 1.05
BATCHES = ((224, 8), (0, 2))
"""(short side, batch); 0 is the --short-side."""
PRECISIONS: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GPU_BATCHES = (1, 8, 32)
PEAK_SIDE = 8192


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short-side", type=int, default=640, help="pixels (default: 640)")
    parser.add_argument("--repeats", type=int, default=9, help="timed pairs (default: 9)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, {options.repeats} pairs\n")
    slow = against_bare(options.short_side, options.repeats)
    slow |= batches(options.short_side, options.repeats)
    if torch.cuda.is_available():
        on_gpu(options.short_side, options.repeats)
    else:
        print("no GPU here: images a second and share of the matrix peak are not measured")
    return int(slow)


def build(arch: str, precision: Precision = "fp32", device: str = "cpu") -> VitReader:
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=0, dynamic_img_size=True).eval().requires_grad_(False)
    return VitReader(model.to(device), precision=precision)


def noise(reader: VitReader, short_side: int, batch: int = 1) -> Tensor:
    """Normalised noise in the shape of a 3 : 4 photograph."""
    torch.manual_seed(0)
    size = short_side_size(375, 500, short_side)
    pixels = torch.randint(0, 256, (375, 500, 3), dtype=torch.uint8).numpy()
    padded = pad_to_multiple(resize(pixels, *size), reader.multiple)
    return to_input([padded] * batch, reader.device)


@torch.inference_mode()
def bare(reader: VitReader, pixels: Tensor, blocks: int) -> Tensor:
    """Runs the modules of timm in the order of its own forward."""
    model = reader.model
    positioned = model._pos_embed(model.patch_embed(pixels))
    tokens, rotary = positioned if isinstance(positioned, tuple) else (positioned, None)
    tokens = model.norm_pre(tokens)
    for block in model.blocks[:blocks]:
        tokens = block(tokens) if rotary is None else block(tokens, rope=rotary)
    return tokens


def against_bare(short_side: int, repeats: int) -> bool:
    print(f"reader against bare forward, one image, {short_side} px short side")
    print(f"{'network':<32}{'what':<28}{'bare CPU s':>12}{'reader CPU s':>14}{'CPU ratio':>11}{'wall ratio':>12}")
    above = False
    for arch in ARCHS:
        reader = build(arch)
        pixels = noise(reader, short_side)
        works: tuple[tuple[str, Callable[[], object], int], ...] = (
            ("q, k of the last block", lambda r=reader, p=pixels: r.read(p, facets=("q", "k")), reader.depth - 1),
            ("embed (all blocks)", lambda r=reader, p=pixels: r.embed(p), reader.depth),
        )
        for what, read, blocks in works:
            pairs = in_turns(lambda r=reader, p=pixels, n=blocks: bare(r, p, n), read, repeats)
            (_, plain), (_, ours) = medians(pairs)
            wall, cpu = ratios(pairs)
            above |= cpu > LIMIT
            print(f"{arch:<32}{what:<28}{plain:>12.3f}{ours:>14.3f}{cpu:>11.3f}{wall:>12.3f}")
    print(f"CPU time {'ABOVE' if above else 'within'} {LIMIT} of the bare forward\n")
    return above


def batches(short_side: int, repeats: int) -> bool:
    print(f"{MAIN}: one by one against batches of equal sizes")
    print(f"{'short side':<12}{'batch':>6}{'single images/s':>17}{'batch images/s':>16}{'CPU gain':>10}{'wall gain':>11}")
    reader, lost = build(MAIN), False
    for side, batch in BATCHES:
        pixels = noise(reader, side or short_side, batch)
        pairs = in_turns(lambda p=pixels: [reader.read(one[None]) for one in p], lambda p=pixels: reader.read(p), repeats)
        (single, _), (together, _) = medians(pairs)
        wall, cpu = (1 / ratio for ratio in ratios(pairs))
        lost |= cpu < 1
        print(f"{side or short_side:<12}{batch:>6}{batch / single:>17.2f}{batch / together:>16.2f}{cpu:>10.3f}{wall:>11.3f}")
    print(f"batches are {'SLOWER than' if lost else 'no slower than'} single images (CPU time)\n")
    return lost


def on_gpu(short_side: int, repeats: int) -> None:
    print(f"{torch.cuda.get_device_name()}: {MAIN}, q and k of the last block, {short_side} px short side")
    print(f"{'precision':<11}{'batch':>6}{'images/s':>10}{'TFLOP/s':>9}{'peak':>8}{'share':>8}")
    for precision, dtype in PRECISIONS.items():
        peak = matrix_peak(dtype, repeats)
        reader = build(MAIN, precision, "cuda")
        for batch in GPU_BATCHES:
            pixels = noise(reader, short_side, batch)
            took = gpu_seconds(lambda r=reader, p=pixels: r.read(p, facets=("q", "k")), repeats)
            rate = flops(reader, pixels) / took
            print(f"{precision:<11}{batch:>6}{batch / took:>10.1f}{rate / 1e12:>9.1f}{peak / 1e12:>8.1f}{rate / peak:>8.1%}")


def flops(reader: VitReader, pixels: Tensor) -> float:
    """Counts the multiplications and additions of all matrix products up to the last block's queries and keys."""
    batch, channels, height, width = pixels.shape
    patches = height * width // reader.patch**2
    tokens = patches + reader.model.num_prefix_tokens
    linear = sum(
        part.weight.numel() for block in reader.model.blocks[:-1] for part in block.modules() if isinstance(part, nn.Linear)
    )
    attention = (reader.depth - 1) * 2 * tokens * reader.dim
    embedding = patches * channels * reader.patch**2 * reader.dim
    return 2.0 * batch * (embedding + tokens * (linear + attention + 2 * reader.dim**2))


def matrix_peak(dtype: torch.dtype, repeats: int) -> float:
    """Returns operations a second of one large matrix product."""
    left, right = (torch.randn(PEAK_SIDE, PEAK_SIDE, device="cuda", dtype=dtype) for _ in range(2))
    return 2.0 * PEAK_SIDE**3 / gpu_seconds(lambda: left @ right, repeats)


def gpu_seconds(work: Callable[[], object], repeats: int) -> float:
    """Returns the median seconds of one call, warmed up."""
    for _ in range(3):
        work()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


Clocks = tuple[float, float]
"""(wall-clock seconds, CPU seconds)."""


def in_turns(one: Callable[[], object], other: Callable[[], object], repeats: int) -> list[tuple[Clocks, Clocks]]:
    """Times both ``repeats`` times, in turns, and who goes first changes."""
    one(), other()
    pairs = []
    for turn in range(repeats):
        if turn % 2:
            second = seconds(other)
            pairs.append((seconds(one), second))
        else:
            pairs.append((seconds(one), seconds(other)))
    return pairs


def seconds(work: Callable[[], object]) -> Clocks:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def medians(pairs: list[tuple[Clocks, Clocks]]) -> tuple[Clocks, Clocks]:
    one, other = (
        tuple(statistics.median(times[clock] for times in column) for clock in (0, 1)) for column in zip(*pairs, strict=True)
    )
    return one, other


def ratios(pairs: list[tuple[Clocks, Clocks]]) -> Clocks:
    """Returns the median of other / one, by wall clock and by CPU time."""
    wall, cpu = (statistics.median(other[clock] / one[clock] for one, other in pairs) for clock in (0, 1))
    return wall, cpu


if __name__ == "__main__":
    sys.exit(main())
