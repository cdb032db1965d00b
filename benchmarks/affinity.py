"""``dino-affinity`` end to end against a literal transcription of the method, and its peak memory.

End to end is everything from the file to run lengths: decode, resize, pad, normalise, network, affinities, mask, the image's own
size, RLE. The literal transcription does it as the equations are printed and as DINO's own ``vision_transformer.py`` computes
attention, one image after the other:

* all blocks to the end, each with its attention matrix made, scaled, put through softmax and multiplied by the values;
* the affinities of every head as N × N matrices (Eq. 2), averaged over the heads;
* P' and the sum over its rows of the matrix, the component of the source, nearest neighbours, RLE.

Neither side writes polygons or files. Both have the same images, weights (ViT-S/16, random, the last keys shifted to have mean
zero, so that masks are neither empty nor everything), types, number of torch threads and process, and run in turns.

    python benchmarks/affinity.py                         # ratios at 640 px with one and two threads, peak memory at 1,024 px
    python benchmarks/affinity.py --images photos/ --count 8
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
from PIL import Image, ImageFilter
from pycocotools import mask as coco_mask
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor, nn

from mdp_backbones.vit import VitReader
from mdp_core.api import Bitmap, Context, ImageRecord, Images, read_image
from mdp_dino.affinity import DinoAffinity
from mdp_dino.settings.affinity import DinoAffinityConfig

ARCH = "vit_small_patch16_224.dino"
PATCH = 16
LEAST_RATIO = 2.3
MOST_MEMORY = 2048
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, metavar="DIR", help="photographs (.jpg); without, pictures are made")
    parser.add_argument("--count", type=int, default=6, help="how many of them (default: 6)")
    parser.add_argument("--short-side", type=int, default=640, help="pixels (default: 640)")
    parser.add_argument("--repeats", type=int, default=3, help="timed pairs (default: 3)")
    parser.add_argument(
        "--threads", type=int, nargs="*", default=[1, 2], help="torch threads, one after the other (default: 1 2)"
    )
    parser.add_argument("--memory", type=int, nargs="*", default=[1, 8], metavar="N", help="peak memory with N images a batch")
    parser.add_argument("--memory-side", type=int, default=1024, help="short side of the images measured (default: 1024)")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(options.images.rglob("*.jpg"))[: options.count] if options.images else made(Path(folder), options.count)
        weights = Path(folder) / "vit.safetensors"
        if options.peak:
            print(peak(weights, paths[0], options))
            return 0
        ratios = [compare(weights, paths, options, threads) for threads in options.threads]
        arguments = ["--images", str(paths[0].parent), "--memory-side", str(options.memory_side)]
        peaks = [peak_of(batch, arguments) for batch in options.memory]
    return 0 if all(ratio >= LEAST_RATIO for ratio in ratios) and all(mib <= MOST_MEMORY for mib in peaks) else 1


def made(folder: Path, count: int) -> list[Path]:
    """Draws pictures of 375 × 500 and 500 × 375 pixels with smooth noise and blurred shapes, as JPEG files."""
    random = np.random.default_rng(0)
    paths = []
    for index in range(count):
        height, width = (375, 500) if index % 3 else (500, 375)
        coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
        pixels = np.asarray(coarse).astype(np.int16)
        for _ in range(4):
            y, x = random.integers(0, height - 90), random.integers(0, width - 90)
            pixels[y : y + random.integers(40, 220), x : x + random.integers(40, 220)] = random.integers(0, 256, 3)
        noisy = np.clip(pixels + random.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8)
        paths.append(folder / f"{index:03}.jpg")
        Image.fromarray(noisy).filter(ImageFilter.GaussianBlur(0.7)).save(paths[-1], quality=92)
    return paths


def images_of(paths: list[Path]) -> Images:
    records = []
    for path in paths:
        with Image.open(path) as image:
            records.append(ImageRecord(path.stem, image.height, image.width, str(path)))
    return Images(records, lambda record: read_image(record.path or ""))


def write_weights(path: Path, images: Images) -> None:
    """Stores a random ViT-S/16 whose last keys have mean zero over the first image."""
    torch.manual_seed(0)
    model = timm.create_model(ARCH, num_classes=0, dynamic_img_size=True).eval()
    state = {
        name: value + (0.02 * torch.randn_like(value) if "norm" not in name else 0)
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    with torch.inference_mode():
        keys = VitReader(model).read(literal_input(images.read(0), 224)[0], facets=("k",))["k"].patches
    width = keys.shape[-1]
    state["blocks.11.attn.qkv.bias"][width : 2 * width] -= keys.mean(dim=(0, 1))
    save_file(state, path)


class ExplicitAttention(nn.Module):
    """Self-attention with its matrix written out, as in DINO's own code; keeps queries and keys of what it saw last."""

    def __init__(self, of: nn.Module) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads, self.scale = of.qkv, of.proj, of.num_heads, of.head_dim**-0.5
        self.seen: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, **_: object) -> Tensor:
        """(1, tokens, width) → the same."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attention = (q @ k.transpose(-2, -1)) * self.scale
        attention = attention.softmax(dim=-1)
        x = (attention @ v).transpose(1, 2).reshape(batch, tokens, width)
        self.seen = q[0], k[0]
        return self.proj(x)


def explicit_network(weights: Path) -> nn.Module:
    model = timm.create_model(ARCH, num_classes=0, dynamic_img_size=True).eval()
    model.load_state_dict(load_file(weights))
    for block in model.blocks:
        block.attn = ExplicitAttention(block.attn)
    return model


def literal_input(pixels: np.ndarray, short_side: int) -> tuple[Tensor, tuple[int, int]]:
    """Returns (1, 3, H, W), resized, padded with the edge and normalised, and (height, width) before padding."""
    height, width = pixels.shape[:2]
    size = (short_side, short_side * width // height) if height <= width else (short_side * height // width, short_side)
    small = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.BILINEAR))
    padded = np.pad(small, ((0, -size[0] % PATCH), (0, -size[1] % PATCH), (0, 0)), mode="edge")
    tensor = torch.from_numpy(padded).permute(2, 0, 1).float() / 255
    return ((tensor - MEAN[:, None, None]) / STD[:, None, None])[None], size


@torch.inference_mode()
def literal_mine(path: Path, model: nn.Module, short_side: int, topk: float = 0.4) -> bytes:
    """One image, from the file to the run lengths of its mask, as printed."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    tensor, size = literal_input(pixels, short_side)
    tokens = model.patch_embed(tensor)
    rows, columns = tokens.shape[1:3]
    tokens = torch.cat([model.cls_token, tokens.flatten(1, 2)], dim=1)
    learnt = model.pos_embed[:, 1:].reshape(1, 14, 14, -1).permute(0, 3, 1, 2)
    positions = nn.functional.interpolate(learnt, size=(rows, columns), mode="bicubic", align_corners=False)
    tokens = tokens + torch.cat([model.pos_embed[:, :1], positions.flatten(2).transpose(1, 2)], dim=1)
    for block in model.blocks:
        tokens = block(tokens)
    model.norm(tokens)
    q, k = model.blocks[-1].attn.seen
    a_cls = (q[:, :1] @ k[:, 1:].transpose(1, 2)).mean(dim=0)[0]  # Eq. 1
    a = (k[:, 1:] @ k[:, 1:].transpose(1, 2)).mean(dim=0)  # Eq. 2
    proposals = torch.topk(a_cls, int(topk * len(a_cls))).indices
    source = int(proposals[0])
    similar = proposals[a[source, proposals] > 0]
    mask = (a[similar].sum(dim=0) > 0).reshape(rows, columns).numpy()
    labels, _ = ndimage.label(mask)
    return encoded(labels == labels[divmod(source, columns)], size, pixels.shape[:2])


def encoded(mask: Bitmap, seen: tuple[int, int], size: tuple[int, int]) -> bytes:
    """From patches to the image's pixels by nearest neighbours, and to run lengths."""
    ys, xs = (((2 * np.arange(to) + 1) * of // (2 * to)) // PATCH for to, of in zip(size, seen, strict=True))
    return coco_mask.encode(np.asfortranarray(mask[np.ix_(ys, xs)].astype(np.uint8)))["counts"]


def compare(weights: Path, paths: list[Path], options: argparse.Namespace, threads: int) -> float:
    """Times both in turns, and says how far their masks differ; returns the median ratio of wall-clock times."""
    torch.set_num_threads(threads)
    images = images_of(paths)
    if not weights.exists():
        write_weights(weights, images)
    model = explicit_network(weights)
    prior = DinoAffinity(DinoAffinityConfig(weights=f"file:{weights}", arch=ARCH, short_side=options.short_side), Context())
    _ = prior.reader, list(prior.mine(images.subset([0]))), literal_mine(paths[0], model, options.short_side)
    pairs = []
    for _ in range(options.repeats):
        mined, ours = timed(lambda: list(prior.mine(images)))
        written, literal = timed(lambda: [literal_mine(path, model, options.short_side) for path in paths])
        pairs.append((literal, ours))
    for clock, name in enumerate(("wall clock", "CPU time")):
        slow, fast = (statistics.median(pair[side][clock] for pair in pairs) / len(paths) for side in (0, 1))
        ratios = [literal[clock] / ours[clock] for literal, ours in pairs]
        print(
            f"{threads} threads, {options.short_side} px, {len(paths)} images, {name}: literal {slow:.3f} s an image, "
            f"dino-affinity {fast:.3f} s, ratio {statistics.median(ratios):.2f} (least {min(ratios):.2f})",
            flush=True,
        )
    tell_differences(mined, written)
    return statistics.median(literal[0] / ours[0] for literal, ours in pairs)


def tell_differences(mined: list, written: list[bytes]) -> None:
    same = sum(found.masks == (counts,) for found, counts in zip(mined, written, strict=True))
    pixels = differing = covered = 0
    for found, counts in zip(mined, written, strict=True):
        literal = coco_mask.decode({"size": list(found.size), "counts": counts}).astype(bool)
        pixels, covered = pixels + literal.size, covered + int(literal.sum())
        differing += int((found.to_masks().any(axis=0) != literal).sum())
    print(
        f"  masks: {same} of {len(mined)} identical, {differing / pixels:.4%} of all pixels differ "
        f"(masks cover {covered / pixels:.0%} of the images)",
        flush=True,
    )


def timed(work: Callable[[], list]) -> tuple[list, tuple[float, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, (time.perf_counter() - wall, time.process_time() - cpu)


def peak_of(batch: int, arguments: list[str]) -> float:
    """Measures in a process of its own, because a process's peak never falls."""
    command = [sys.executable, __file__, "--peak", str(batch), *arguments]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def peak(weights: Path, path: Path, options: argparse.Namespace) -> float:
    """Mines as many copies of one image as make a batch; returns the peak memory of this whole process in MiB."""
    torch.set_num_threads(1)
    images = images_of([path]).subset([0] * options.peak)
    torch.manual_seed(0)
    save_file(timm.create_model(ARCH, num_classes=0).state_dict(), weights)
    settings = {"arch": ARCH, "short_side": options.memory_side, "batch": options.peak}
    prior = DinoAffinity(DinoAffinityConfig(weights=f"file:{weights}", **settings), Context())
    _ = prior.reader
    loaded = highest_mib()
    found = list(prior.mine(images))
    mib = highest_mib()
    print(
        f"peak memory of the whole process, {options.memory_side} px short side, batch {options.peak}, {len(found)} images of "
        f"{found[0].size}: {mib:.0f} MiB ({loaded:.0f} before the first image)",
        file=sys.stderr,
    )
    return mib


def highest_mib() -> float:
    """Returns the most resident memory that this process ever had (Linux; ru_maxrss would count the parent's until the exec)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    sys.exit(main())
