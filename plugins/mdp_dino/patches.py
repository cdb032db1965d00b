"""What every prior on a ViT's patches shares: images go in, a method groups the patches of each, masks of the images' size come out.

A method is a subclass of ``PatchPrior`` with one function, ``group``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mdp_backbones.attention import Facet
from mdp_backbones.preprocess import (
    in_batches,
    pad_to_multiple,
    pad_with_zeros,
    read_ahead,
    resize,
    short_side_size,
    to_input,
)
from mdp_backbones.vit import VitReader
from mdp_backbones.weights import load_vit
from mdp_core.api import Bitmap, Context, GroupingPrior, ImageRecord, Images, Instances, Pixels
from mdp_dino.pixels import Size, to_pixels
from mdp_dino.scales import Views, resampled, scaled, side_by_side
from mdp_dino.settings.vit import VitPriorConfig

ConfigT = TypeVar("ConfigT", bound=VitPriorConfig)


@dataclass(frozen=True)
class Patches:
    """One image as the network saw it.

    Attributes:
        values: Facet → float32 (N, width) of the patches in row-major order, heads concatenated.
        prefix: Facet → float32 (P, width) of the tokens before the patches: CLS first, if there is one, then registers.
        grid: (rows, columns) with rows · columns = N.
        heads: Number of attention heads; of each scale.
        patch: Side of a patch in pixels.
        pixels: uint8 (h, w, 3), resized; h ≤ rows · patch and w ≤ columns · patch, equal where padding copies the edge.
        scales: How many scales the features are of, side by side: width = scales · (width of one).
    """

    values: Mapping[Facet, Tensor]
    prefix: Mapping[Facet, Tensor]
    grid: tuple[int, int]
    heads: int
    patch: int
    pixels: Pixels
    scales: int = 1

    @property
    def plain(self) -> bool:
        """Whether the image is of one colour: its patches differ in nothing but their position, and there is no object."""
        return bool((self.pixels == self.pixels[:1, :1]).all())

    def features(self, facet: Facet, *, centred: bool = False) -> Tensor:
        """Returns float32 (N, width) of a facet, with the image's mean taken away if ``centred``."""
        values = self.values[facet]
        return values - values.mean(dim=0) if centred else values


@dataclass(frozen=True)
class Grouping:
    """What a method found in one image, in the order in which it is kept.

    Attributes:
        masks: bool (n, rows, columns), cells of ``stride`` pixels of ``Patches.pixels``.
        scores: float32 (n,) in [0, 1].
        stride: Pixels a cell: the patch, or 1 where masks are of pixels.
    """

    masks: Bitmap
    scores: NDArray[np.float32]
    stride: int

    @classmethod
    def nothing(cls, grid: tuple[int, int], stride: int) -> Grouping:
        """Returns the answer that there is no object."""
        return cls(np.zeros((0, *grid), np.bool_), np.zeros(0, np.float32), stride)


class PatchPrior(GroupingPrior[ConfigT], ABC):
    """Reads images in batches, lets ``group`` find masks of patches, and brings them to the images' size."""

    needs_cls: ClassVar[bool] = False
    """Whether the network must have a CLS token."""

    def __init__(self, config: ConfigT, context: Context) -> None:
        super().__init__(config, context)
        self._warned = False

    @property
    def facets(self) -> tuple[Facet, ...]:
        """What is read of the network; by default what the setting ``facet`` says, or keys."""
        return (getattr(self.config, "facet", "k"),)

    @property
    def scales(self) -> tuple[float, ...]:
        """Sizes at which the network sees each image, relative to ``input_size``; what the setting ``scales`` says, or 1."""
        return getattr(self.config, "scales", (1.0,))

    @abstractmethod
    def group(self, patches: Patches) -> Grouping:
        """Finds the masks of one image; a pure function."""

    @cached_property
    def reader(self) -> VitReader:
        """The network, loaded when it is first needed."""
        config = self.config
        loaded = load_vit(
            config.weights, self.context, arch=config.arch, precision=config.precision, positions=config.positions
        )
        if self.needs_cls:
            loaded.reader.require_cls()
        return loaded.reader

    def mine(self, images: Images) -> Iterator[Instances]:
        """Yields the masks of each image, with scores and the boxes of their pixels, labels -1."""
        prepared = read_ahead(lambda index: self._prepare(images.read(index)), range(len(images)))
        groupings = in_batches(prepared, self._group, self.config.batch)
        for record, grouping in zip(images.records, groupings, strict=True):
            kept = ~(grouping.scores < self.config.min_score)  # a NaN stays, and is found by who checks results
            found = self.instances(Grouping(grouping.masks[kept], grouping.scores[kept], grouping.stride), record)
            if (found.areas() == record.height * record.width).any():
                self._warn_whole(record.id)
            yield found

    def input_size(self, size: Size) -> Size:
        """Returns (height, width) at which the network sees an image of ``size``, before padding."""
        config = self.config
        return size if config.short_side is None else within(short_side_size(*size, config.short_side), config.longest)

    def _prepare(self, pixels: Pixels) -> Views:
        base = self.input_size((pixels.shape[0], pixels.shape[1]))
        sizes = tuple(scaled(base, scale) for scale in self.scales)
        pictures = {size: self._picture(pixels, size) for size in (base, *sizes)}
        return Views(pictures[base], base, tuple(pictures[size] for size in sizes), sizes)

    def _picture(self, pixels: Pixels, size: Size) -> Pixels:
        resized = resize(pixels, *size)
        return pad_to_multiple(resized, self.reader.patch) if self.config.padding == "edge" else resized

    def _group(self, batch: list[Views]) -> list[Grouping]:
        together = images_together(batch[0].largest, self.config.batch_megapixels)
        parts = (batch[start : start + together] for start in range(0, len(batch), together))
        return [self.group(patches) for part in parts for patches in self._see(part)]

    def _see(self, batch: list[Views]) -> Iterator[Patches]:
        """Reads every scale of images of one shape, and joins the scales."""
        seen = [list(self.read([views.pictures[index] for views in batch])) for index in range(len(self.scales))]
        for views, scales in zip(batch, zip(*seen, strict=True), strict=True):
            yield scales[0] if views.sizes == (views.base_size,) else self._joined(views, scales)

    def _joined(self, views: Views, seen: Sequence[Patches]) -> Patches:
        first, patch = seen[0], self.reader.patch
        grid = -(-views.base.shape[0] // patch), -(-views.base.shape[1] // patch)
        values, prefix = {}, {}
        for facet in first.values:
            there = [
                resampled(one.values[facet], one.grid, grid, (size[0] / views.base_size[0], size[1] / views.base_size[1]))
                for one, size in zip(seen, views.sizes, strict=True)
            ]
            centred = getattr(self.config, "centre_keys", False)
            values[facet], prefix[facet] = side_by_side(there, [one.prefix[facet] for one in seen], centred=centred)
        return Patches(values, prefix, grid, first.heads, patch, views.base, len(seen))

    def read(self, batch: list[Pixels]) -> Iterator[Patches]:
        """Reads images of one size, at one scale."""
        reader = self.reader
        tensor = pad_with_zeros(to_input(batch, reader.device, reader.normalisation), reader.patch)
        block = reader.read(tensor, self.config.block, self.facets)
        for index, pixels in enumerate(batch):
            values = {facet: tokens.patches[index] for facet, tokens in block.values.items()}
            prefix = {facet: tokens.prefix[index] for facet, tokens in block.values.items()}
            yield Patches(values, prefix, block.grid, block.heads, reader.patch, pixels)

    def instances(self, grouping: Grouping, record: ImageRecord) -> Instances:
        """Returns the masks of a grouping at the image's size; those that no pixel is left of are dropped."""
        size = record.height, record.width
        masks = [to_pixels(mask, grouping.stride, self.input_size(size), size) for mask in grouping.masks]
        there = [index for index, mask in enumerate(masks) if mask.any()]
        stacked = np.stack([masks[i] for i in there]) if there else np.zeros((0, *size), np.bool_)
        return Instances.from_masks(stacked, scores=grouping.scores[there])

    def _warn_whole(self, image: str) -> None:
        if self._warned:
            return
        self._warned = True
        uncentred = getattr(self.config, "centre_keys", True) is False
        remedy = "the keys all point one way: set centre_keys: true" if uncentred else "the images show nothing that stands out"
        self.context.listener.warn(
            f"a mask of {image} is the whole image (reported once; others may be too). Where this is frequent, {remedy}"
        )


def within(size: Size, longest: float) -> Size:
    """Returns (height, width), or what it shrinks to where the longer side is more than ``longest`` times the shorter one.

    The longer side becomes ``longest`` times what the shorter one was, and the shorter one shrinks with it, to a pixel at least.
    """
    short, long = sorted(size)
    if long <= longest * short:
        return size
    limit = int(longest * short)
    other = max(1, round(short * limit / long))
    return (other, limit) if size[0] < size[1] else (limit, other)


def images_together(pixels: int, megapixels: float) -> int:
    """Returns how many images of ``pixels`` pixels make up at most ``megapixels`` million; at least one."""
    return max(1, int(megapixels * 1e6) // pixels)
