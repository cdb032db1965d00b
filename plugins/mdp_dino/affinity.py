"""Prior ``dino-affinity``: one mask an image from the keys and the CLS query of a ViT's last block (MaskDistill, §3.2).

The affinity of two patches, averaged over the heads, is a dot product of their keys with the heads concatenated, so
Σ_{i∈P'} A_ij = (Σ_{i∈P'} k_i) · k_j / |H|: time and memory are O(N · d), and the N × N matrix is never built.
Dividing by |H| changes no sign and no order, and is left out.

In a network with rotary positions CLS meets turned keys, as its attention does; affinities compare keys before the turn, so
that they say what patches show and not where they are.

Images are padded on the right and at the bottom with copies of their edge, by less than a patch. Every patch therefore shows
some of the image, and all take part; what lies in the padding is cropped from the mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from mdp_backbones.preprocess import in_batches, pad_to_multiple, read_ahead, resize, short_side_size, to_input
from mdp_backbones.vit import VitReader
from mdp_backbones.weights import load_vit
from mdp_core.api import Bitmap, Context, GroupingPrior, Images, Instances, Pixels
from mdp_dino.settings import DinoAffinityConfig


class DinoAffinity(GroupingPrior[DinoAffinityConfig]):
    """Mines the most discriminative object of each image."""

    Config = DinoAffinityConfig

    def __init__(self, config: DinoAffinityConfig, context: Context) -> None:
        super().__init__(config, context)
        self._warned = False

    @cached_property
    def _vit(self) -> VitReader:
        config = self.config
        reader = load_vit(config.weights, self.context, arch=config.arch, precision=config.precision).reader
        reader.require_cls()
        return reader

    def mine(self, images: Images) -> Iterator[Instances]:
        """Yields one mask an image (score 1, label -1); none where no patch has a positive affinity to the source."""
        prepared = read_ahead(lambda index: self._prepare(images.read(index)), range(len(images)))
        patch_masks = in_batches(prepared, self._patch_masks, self.config.batch)
        for record, patches in zip(images.records, patch_masks, strict=True):
            size = short_side_size(record.height, record.width, self.config.short_side)
            mask = to_pixels(patches, self._vit.patch, size, (record.height, record.width))
            if mask.all():
                self._warn_whole(record.id)
            yield Instances.from_masks(mask[None][: int(mask.any())])

    def _prepare(self, pixels: Pixels) -> Pixels:
        height, width = short_side_size(pixels.shape[0], pixels.shape[1], self.config.short_side)
        return pad_to_multiple(resize(pixels, height, width), self._vit.patch)

    def _patch_masks(self, batch: list[Pixels]) -> list[Bitmap]:
        config, reader = self.config, self._vit
        tensor = to_input(batch, reader.device, reader.normalisation)
        block = reader.read(tensor, config.block, ("q", "k_rotary", config.facet))
        queries, keys, features = block["q"].prefix[:, 0], block["k_rotary"].patches, block[config.facet].patches
        masks = []
        for query, own_keys, own_features in zip(queries, keys, features, strict=True):
            mask, source = object_patches(
                own_keys, query, topk=config.topk, centre_keys=config.centre_keys, features=own_features
            )
            mask = balanced(own_features, mask, config.balance)
            grid = mask.cpu().numpy().reshape(block.grid)
            masks.append(component_of(grid, divmod(source, block.grid[1])) if config.component == "source" else grid)
        return masks

    def _warn_whole(self, image: str) -> None:
        if not self._warned:
            self._warned = True
            self.context.listener.warn(
                f"the mask of {image} is the whole image (reported once; others may be too). "
                "Where this is frequent, the keys all point one way: set centre_keys: true"
            )


@torch.inference_mode()
def object_patches(
    keys: Tensor, query: Tensor, *, topk: float, centre_keys: bool = False, features: Tensor | None = None
) -> tuple[Tensor, int]:
    """Selects the patches of the object that CLS attends to most (paper §3.2).

    Args:
        keys: float (N, d), patch keys with the heads concatenated.
        query: float (d,), the CLS query likewise.
        topk: Share of patches in the proposals P, in (0, 1]; k = ⌊topk · N⌋, at least 1.
        centre_keys: Subtract the mean key (and the mean of ``features``) first. The order of a_CLS does not change, the signs
            of A do.
        features: float (N, any), what affinities compare instead of the keys.

    Returns:
        bool (N,), the mask M_s, and the index of the source patch s.
    """
    features = keys if features is None else features
    if centre_keys:
        keys, features = keys - keys.mean(dim=0), features - features.mean(dim=0)
    a_cls = keys @ query  # Eq. 1
    order = torch.argsort(a_cls, descending=True, stable=True)
    proposals = order[: max(1, int(topk * len(keys)))]
    source = int(order[0])
    similar = proposals[features[proposals] @ features[source] > 0]  # P': Eq. 2 in row s
    return features @ features[similar].sum(dim=0) > 0, source  # Σ_{i∈P'} A_ij > 0


@torch.inference_mode()
def balanced(features: Tensor, mask: Tensor, rounds: int) -> Tensor:
    """Moves the border between mask and rest halfway between their means: two-means clustering that starts from the mask.

    With centred features zero lies at the image's mean f·o + (1-f)·b, for an object that covers the share f and has the mean
    feature o on a background b: a patch that is only f object counts as one. Halfway it has to be half.

    Args:
        features: float (N, d).
        mask: bool (N,).
        rounds: How often; it ends early where nothing changes.

    Returns:
        bool (N,); the mask itself where it is empty or everything.
    """
    for _ in range(rounds):
        if not mask.any() or mask.all():
            break
        inside, outside = features[mask].mean(dim=0), features[~mask].mean(dim=0)
        moved = (features - (inside + outside) / 2) @ (inside - outside) > 0
        if torch.equal(moved, mask):
            break
        mask = moved
    return mask


def component_of(mask: Bitmap, source: tuple[int, int]) -> Bitmap:
    """Returns the 4-connected component of bool (rows, columns) that holds ``source``; nothing if the source is not set."""
    labels, _ = ndimage.label(mask)
    return mask & (labels == labels[source])


def to_pixels(patches: Bitmap, patch: int, resized: tuple[int, int], size: tuple[int, int]) -> Bitmap:
    """Brings a mask of patches to the image's own size by nearest neighbours, twice, in one step.

    Args:
        patches: bool (rows, columns).
        patch: Side of a patch in pixels of the resized image.
        resized: (height, width) of the resized image, without padding.
        size: (height, width) of the image itself.

    Returns:
        bool ``size``.
    """

    def nearest(target: int, source: int) -> NDArray[np.int64]:
        centres = (2 * np.arange(target, dtype=np.int64) + 1) * source // (2 * target)
        return centres // patch

    return patches[np.ix_(nearest(size[0], resized[0]), nearest(size[1], resized[1]))]
