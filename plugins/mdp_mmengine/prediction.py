"""Predicting label maps: at what size, in which batches, and how they come back to the image's own size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from mdp_core.api import ImageRecord, Images, LabelMap, Pixels
from mdp_mmengine.augmentation import resize_image, resize_labels
from mdp_mmengine.settings import InputSize, MapPrediction

__all__ = ["batches", "each", "input_size", "label_maps", "one_ahead", "stack"]

Size = tuple[int, int]
Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Result = TypeVar("Result")


def label_maps(
    images: Images, settings: MapPrediction, logits_of: Callable[[Tensor], Tensor], highest: int
) -> Iterator[LabelMap]:
    """Predicts: yields one label map an image, in order and at the image's own size.

    Args:
        images: What to predict.
        settings: At which size, how labels come back from there, and whether probabilities are kept.
        logits_of: Maps uint8 (B, 3, h, w) RGB to logits (B, highest + 1, h', w') that cover the whole image.
        highest: The highest label; above 254 label maps are uint16.
    """

    def predict(pixels: Sequence[Pixels], sizes: Sequence[Size]) -> list[LabelMap]:
        with torch.inference_mode():
            logits = logits_of(stack(pixels)).float()
            seen = pixels[0].shape[0], pixels[0].shape[1]
            return [_label_map(one, seen, size, settings, highest) for one, size in zip(logits, sizes, strict=True)]

    return each(images, settings, predict)


def each(
    images: Images, settings: InputSize, work: Callable[[Sequence[Pixels], Sequence[Size]], Sequence[Result]]
) -> Iterator[Result]:
    """Yields one result an image, in order; images are read ahead and those of one input size go together.

    Args:
        images: The images.
        settings: Input size and batch.
        work: Takes images at their input size, all of one size, and their own (height, width); returns a result each.
    """

    def read(indices: Sequence[int]) -> list[Pixels]:
        pixels = (images.read(index) for index in indices)
        return [resize_image(image, *input_size((image.shape[0], image.shape[1]), settings)) for image in pixels]

    done: dict[int, Result] = {}
    due = 0
    for indices, pixels in one_ahead(batches(images.records, settings), read):
        sizes = [(images.records[index].height, images.records[index].width) for index in indices]
        done.update(zip(indices, work(pixels, sizes), strict=True))
        while due in done:
            yield done.pop(due)
            due += 1


def stack(pixels: Sequence[Pixels]) -> Tensor:
    """Returns images of one size, uint8 (h, w, 3) each, as uint8 (B, 3, h, w)."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(pixels).transpose(0, 3, 1, 2)))


def input_size(image: Size, settings: InputSize) -> Size:
    """Returns the (height, width) at which an image of that (height, width) goes through the network."""
    if settings.size is not None:
        return settings.size, settings.size
    if settings.side is None or min(image) <= settings.side:
        return image
    factor = settings.side / min(image)
    return round(image[0] * factor), round(image[1] * factor)


def batches(records: Sequence[ImageRecord], settings: InputSize) -> Iterator[list[int]]:
    """Yields batches of indices of images that share their input size; all of a window come before those of the next.

    A window is eight batches long, so that few batches are small and few results wait for their turn.
    """
    window = 8 * settings.batch
    for start in range(0, len(records), window):
        groups: dict[Size, list[int]] = {}
        for index in range(start, min(start + window, len(records))):
            record = records[index]
            groups.setdefault(input_size((record.height, record.width), settings), []).append(index)
        for indices in groups.values():
            for first in range(0, len(indices), settings.batch):
                yield indices[first : first + settings.batch]


def one_ahead(items: Iterator[Item], load: Callable[[Item], Loaded]) -> Iterator[tuple[Item, Loaded]]:
    """Yields each item with what ``load`` makes of it, loading the next one in a thread meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        waiting: tuple[Item, Future[Loaded]] | None = None
        for item in items:
            following = item, thread.submit(load, item)
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def _label_map(logits: Tensor, seen: Size, size: Size, settings: MapPrediction, highest: int) -> LabelMap:
    label_map = LabelMap.from_array(_labels(logits, seen, size, settings.upsample), clusters=highest)
    if not settings.probabilities:
        return label_map
    return LabelMap(label_map.values, logits.softmax(0).half().cpu().numpy())


def _labels(logits: Tensor, seen: Size, size: Size, upsample: str) -> NDArray[Any]:
    """Returns the best labels at ``size`` of logits (C + 1, h, w) of an image seen at ``seen``."""
    shown = size if upsample == "logits" else seen
    large = F.interpolate(logits[None], size=shown, mode="bilinear", align_corners=False)[0]
    return resize_labels(large.argmax(0).to(torch.int32).cpu().numpy().astype(np.uint16), *size)
