"""Predicting label maps: at what size, in which batches, and how they come back to the image's own size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from mdp_core.api import ImageRecord, LabelMap, Pixels
from mdp_mmseg.augmentation import resize_labels
from mdp_mmseg.settings import PredictSettings

Size = tuple[int, int]
Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def input_size(image: Size, settings: PredictSettings) -> Size:
    """Returns the (height, width) at which an image of that (height, width) goes through the network."""
    if settings.size is not None:
        return settings.size, settings.size
    if settings.side is None or min(image) <= settings.side:
        return image
    factor = settings.side / min(image)
    return round(image[0] * factor), round(image[1] * factor)


def batches(records: Sequence[ImageRecord], settings: PredictSettings) -> Iterator[list[int]]:
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


def predict_batch(
    model: nn.Module, pixels: Sequence[Pixels], sizes: Sequence[Size], clusters: int, settings: PredictSettings
) -> list[LabelMap]:
    """Predicts images that have been brought to one input size.

    Args:
        model: An MMSegmentation segmentor in evaluation mode.
        pixels: uint8 (h, w, 3) RGB each, all of one size.
        sizes: The images' own (height, width).
        clusters: Number of clusters C.
        settings: How labels come back to the images' sizes, and whether probabilities are kept.

    Returns:
        Label maps at ``sizes``; uint16 where C > 254.
    """
    preprocess = model.get_submodule("data_preprocessor")
    with torch.inference_mode():
        inputs = [torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))) for image in pixels]
        logits: Tensor = model(preprocess({"inputs": inputs}, False)["inputs"], mode="tensor").float()
        maps = []
        for one, image, size in zip(logits, pixels, sizes, strict=True):
            values = _labels(one, (image.shape[0], image.shape[1]), size, settings.upsample)
            label_map = LabelMap.from_array(values, clusters=clusters)
            if settings.probabilities:
                label_map = LabelMap(label_map.values, one.softmax(0).half().cpu().numpy())
            maps.append(label_map)
    return maps


def _labels(logits: Tensor, seen: Size, size: Size, upsample: str) -> NDArray[Any]:
    """Returns the best labels at ``size`` of logits (C + 1, h, w) of an image seen at ``seen``."""
    shown = size if upsample == "logits" else seen
    large = F.interpolate(logits[None], size=shown, mode="bilinear", align_corners=False)[0]
    return resize_labels(large.argmax(0).to(torch.int32).cpu().numpy().astype(np.uint16), *size)
