"""The training images as tensors: kept in memory where they fit, read anew where they do not.

Each image is squeezed into a square of one side; views are cut out of it in its true proportions (``views.py``). A set of any size
then is one uint8 tensor, in the memory of the device that trains if it can be, and a batch of it is an index.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdp_backbones.preprocess import resize
from mdp_core.api import Bitmap, Context, Images, Instances, StageError
from mdp_pretrain.views import Batch

GIB = 2**30


class ImageBank:
    """Images, and the mask of each where a prior has mined any.

    Args:
        images: The training images.
        instances: One an image: its first mask counts. An image without one is taken whole. None: no masks at all.
        side: Side of the squares, in pixels.
        memory: GiB that they may take.
        workers: Threads that read images.
        context: Device.
    """

    def __init__(
        self,
        images: Images,
        instances: Sequence[Instances] | None,
        *,
        side: int,
        memory: float,
        workers: int,
        context: Context,
    ) -> None:
        if not len(images):
            raise StageError("there are no images to learn from")
        self._images, self._instances, self._side, self._workers = images, instances, side, workers
        self._device = torch.device(context.device)
        self.aspect = torch.tensor([record.width / record.height for record in images.records], dtype=torch.float32)
        masks = [self._mask(index) for index in range(len(images))] if instances is not None else None
        self.boxes = None if masks is None else torch.from_numpy(np.stack([box_of(mask) for mask in masks]))
        self._masks = None if masks is None else torch.from_numpy(np.stack([np.packbits(mask, axis=1) for mask in masks]))
        self._pixels: Tensor | None = None
        if len(images) * 3 * side * side <= memory * GIB:
            self._pixels = self._read(range(len(images))).to(self._device)

    def __len__(self) -> int:
        return len(self._images)

    @property
    def in_memory(self) -> bool:
        """Whether all images are held."""
        return self._pixels is not None

    def batch(self, indices: Tensor) -> Batch:
        """Returns images of int64 (B,), on the device."""
        pixels = (
            self._read(indices.tolist()).to(self._device)
            if self._pixels is None
            else self._pixels[indices.to(self._pixels.device)]
        )
        masks = boxes = None
        if self._masks is not None and self.boxes is not None:
            unpacked = np.unpackbits(self._masks[indices].numpy(), axis=2, count=self._side)
            masks = torch.from_numpy(unpacked).to(self._device, torch.float32)[:, None]
            boxes = self.boxes[indices]
        return Batch(pixels.permute(0, 3, 1, 2).to(torch.float32) / 255.0, self.aspect[indices], masks, boxes)

    def _read(self, indices: Sequence[int] | range) -> Tensor:
        """Reads images: uint8 (n, side, side, 3)."""
        out = np.empty((len(indices), self._side, self._side, 3), np.uint8)

        def read(slot: int) -> None:
            out[slot] = resize(self._images.read(indices[slot]), self._side, self._side)

        with ThreadPoolExecutor(min(self._workers, len(indices)), thread_name_prefix="bank") as pool:
            list(pool.map(read, range(len(indices))))
        return torch.from_numpy(out)

    def _mask(self, index: int) -> Bitmap:
        one = self._instances[index]
        if not len(one):
            return np.ones((self._side, self._side), np.bool_)
        mask = one.mask(0).astype(np.uint8)
        squeezed = cv2.resize(mask, (self._side, self._side), interpolation=cv2.INTER_NEAREST).astype(np.bool_)
        return squeezed if squeezed.any() else np.ones_like(squeezed)


def box_of(mask: Bitmap) -> NDArray[np.float32]:
    """Returns the box of bool (S, S) as float32 (4,): centre x and y, half width and height, in halves of the image."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32) * (2.0 / len(mask)) - 1.0
    return np.concatenate([(edges[:2] + edges[2:]) / 2, (edges[2:] - edges[:2]) / 2]).astype(np.float32)
