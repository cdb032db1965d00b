"""From pixels to a ViT's input: resize, pad, normalise, and run images of equal size together.

Resizing is Pillow's bilinear filter (antialiased when it shrinks). Padding goes to the right and to the bottom, and repeats the
edge pixels, or is zero after normalisation; it is always narrower than one patch, so no patch consists of padding alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mdp_core.api import Pixels

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Normalisation:
    """How a network wants its pixels: (value / 255 - mean) / std, channel by channel (red, green, blue).

    Attributes:
        mean: Mean of each channel, in [0, 1].
        std: Standard deviation of each channel, above 0.
    """

    mean: Colour
    std: Colour

    @property
    def mean_pixel(self) -> NDArray[np.uint8]:
        """The mean colour as a pixel, uint8 (3,): what the network sees as (almost) zero."""
        return np.array([round(255 * value) for value in self.mean], dtype=np.uint8)


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and spread of ImageNet: DINO, DINOv2, DINOv3, iBOT, MAE, MoCo and most others."""
HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""-1 to 1: supervised networks of the "augreg" kind."""

WINDOW = 4
"""How many batches of prepared images may wait while batches of equal size fill up."""


class Shaped(Protocol):
    """Whatever has a shape: an array, or several."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Equal for what can be stacked."""


T = TypeVar("T")
Input = TypeVar("Input", bound=Shaped)
Result = TypeVar("Result")


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resizes uint8 (H, W, 3) to (height, width) with Pillow's bilinear filter."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Returns (height, width) scaled such that the shorter side is ``short_side``; the longer one is rounded down."""
    if height <= width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def pad_to_multiple(pixels: Pixels, multiple: int) -> Pixels:
    """Pads uint8 (H, W, 3) to the right and bottom with copies of the edge, up to the next multiple."""
    height, width = pixels.shape[:2]
    below, right = -height % multiple, -width % multiple
    return np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="edge") if below or right else pixels


def to_input(pixels: Sequence[Pixels], device: torch.device, normalisation: Normalisation = IMAGENET) -> Tensor:
    """Stacks and normalises images of one size: uint8 (H, W, 3) each → float32 (B, 3, H, W) on ``device``."""
    stacked = torch.from_numpy(np.stack(pixels)).to(device)
    mean = torch.tensor(normalisation.mean, device=device)[:, None, None]
    std = torch.tensor(normalisation.std, device=device)[:, None, None]
    floats = stacked.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return floats.div_(255.0).sub_(mean).div_(std)  # in place: at 960 px each copy is 15 MB an image


def pad_with_zeros(inputs: Tensor, multiple: int) -> Tensor:
    """Pads normalised float32 (B, 3, H, W) with zeros to the right and bottom, up to the next multiple; nothing is copied at one."""
    below, right = -inputs.shape[-2] % multiple, -inputs.shape[-1] % multiple
    return torch.nn.functional.pad(inputs, (0, right, 0, below)) if below or right else inputs


def read_ahead(make: Callable[[int], T], indices: Iterable[int], ahead: int = 4) -> Iterator[T]:
    """Yields ``make(index)`` in order, while one thread makes up to ``ahead`` more."""
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
    pending: deque[Future[T]] = deque()
    try:
        for index in indices:
            pending.append(pool.submit(make, index))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def in_batches(inputs: Iterable[Input], run: Callable[[list[Input]], Sequence[Result]], batch: int) -> Iterator[Result]:
    """Runs images of equal shape together and yields the results in the order of the inputs.

    A batch runs when it is full, or when ``WINDOW`` batches of images wait: then the one that holds the oldest image.

    Args:
        inputs: uint8 (H, W, 3) each, of mixed sizes, or anything else with a shape.
        run: Takes 1..batch images of one shape, returns one result an image.
        batch: Largest batch.
    """
    waiting: dict[tuple[int, ...], list[tuple[int, Input]]] = {}
    done: dict[int, Result] = {}
    count = due = 0

    def flush(size: tuple[int, ...]) -> None:
        members = waiting.pop(size)
        results = run([pixels for _, pixels in members])
        done.update(zip((index for index, _ in members), results, strict=True))

    def oldest() -> tuple[int, ...]:
        return min(waiting, key=lambda size: waiting[size][0][0])

    for pixels in inputs:
        waiting.setdefault(pixels.shape, []).append((count, pixels))
        count += 1
        if len(waiting[pixels.shape]) == batch:
            flush(pixels.shape)
        if due not in done and count - due >= WINDOW * batch:
            flush(oldest())
        while due in done:
            yield done.pop(due)
            due += 1
    while waiting:
        flush(oldest())
    for index in range(due, count):
        yield done.pop(index)


def fill_outside(pixels: Pixels, mask: NDArray[np.bool_], colour: NDArray[np.uint8]) -> Pixels:
    """Returns a copy of uint8 (H, W, 3) whose pixels outside bool (H, W) are ``colour``, uint8 (3,).

    ``Normalisation.mean_pixel`` of the network that will see the picture is the colour that says least.
    """
    return np.where(mask[..., None], pixels, colour)
