"""Prior ``dino-affinity``: one mask an image from the keys and the CLS query of a ViT's last block (MaskDistill, §3.2).

The affinity of two patches, averaged over the heads, is a dot product of their keys with the heads concatenated, so
Σ_{i∈P'} A_ij = (Σ_{i∈P'} k_i) · k_j / |H|: time and memory are O(N · d), and the N × N matrix is never built.
Dividing by |H| changes no sign and no order, and is left out.

In a network with rotary positions CLS meets turned keys, as its attention does; affinities compare keys before the turn, so
that they say what patches show and not where they are.

Images are padded on the right and at the bottom, by less than a patch. Every patch therefore shows some of the image, and all
take part; what lies in the padding is cropped from the mask.

The authors' program does more than the paper says: ``heads``, ``cls_mass``, ``padding``, ``positions``, ``upsample`` and
``outline`` are the switches between the two, and their defaults are the paper's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Literal

import torch
from scipy import ndimage
from torch import Tensor

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
from mdp_core.api import Bitmap, Context, GroupingPrior, Images, Instances, Pixels, StageError
from mdp_dino.outlines import outlined
from mdp_dino.pixels import to_pixels
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
        loaded = load_vit(
            config.weights, self.context, arch=config.arch, precision=config.precision, positions=config.positions
        )
        reader = loaded.reader
        reader.require_cls()
        return reader

    def mine(self, images: Images) -> Iterator[Instances]:
        """Yields one mask an image (score 1, label -1, the box of its pixels); none where no patch is similar to the source."""
        config = self.config
        prepared = read_ahead(lambda index: self._prepare(images.read(index)), range(len(images)))
        patch_masks = in_batches(prepared, self._patch_masks, config.batch)
        for record, patches in zip(images.records, patch_masks, strict=True):
            size = record.height, record.width
            mask = to_pixels(patches, self._vit.patch, short_side_size(*size, config.short_side), size, config.upsample)
            if mask.all():
                self._warn_whole(record.id)
            yield instance_of(mask, outlined(mask, config.outline))

    def _prepare(self, pixels: Pixels) -> Pixels:
        height, width = short_side_size(pixels.shape[0], pixels.shape[1], self.config.short_side)
        resized = resize(pixels, height, width)
        return pad_to_multiple(resized, self._vit.patch) if self.config.padding == "edge" else resized

    def _patch_masks(self, batch: list[Pixels]) -> list[Bitmap]:
        config, reader = self.config, self._vit
        tensor = pad_with_zeros(to_input(batch, reader.device, reader.normalisation), reader.patch)
        block = reader.read(tensor, config.block, ("q", "k_rotary", config.facet))
        queries, keys, features = block["q"].prefix[:, 0], block["k_rotary"].patches, block[config.facet].patches
        seen = width_of_heads(config.heads, block.heads, queries.shape[-1])
        masks = []
        for query, own_keys, own_features in zip(queries, keys, features, strict=True):
            mask, source = object_patches(
                own_keys[:, :seen],
                query[:seen],
                topk=config.topk,
                centre_keys=config.centre_keys,
                features=own_features,
                cls_mass=config.cls_mass,
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
    keys: Tensor,
    query: Tensor,
    *,
    topk: float,
    centre_keys: bool = False,
    features: Tensor | None = None,
    cls_mass: float | None = None,
) -> tuple[Tensor, int]:
    """Selects the patches of the object that CLS attends to most (paper §3.2).

    Args:
        keys: float (N, d), patch keys with the heads concatenated: those heads that a_CLS is averaged over.
        query: float (d,), the CLS query likewise.
        topk: Share of patches in the proposals P, in (0, 1]; k = ⌊topk · N⌋, at least 1.
        centre_keys: Subtract the mean key (and the mean of ``features``) first. The order of a_CLS does not change, the signs
            of A do.
        features: float (N, any), what affinities compare instead of the keys.
        cls_mass: Gate a_CLS first (``within_mass``), as it is without centring.

    Of equal a_CLS the patch with the lower index comes first.

    Returns:
        bool (N,), the mask M_s, and the index of the source patch s.
    """
    features, raw = keys if features is None else features, keys
    if centre_keys:
        keys, features = keys - keys.mean(dim=0), features - features.mean(dim=0)
    a_cls = keys @ query if cls_mass is None else within_mass(raw @ query, cls_mass)  # Eq. 1
    order = torch.argsort(a_cls, descending=True, stable=True)
    proposals = order[: max(1, int(topk * len(keys)))]
    source = int(order[0])
    similar = proposals[features[proposals] @ features[source] > 0]  # P': Eq. 2 in row s
    return features @ features[similar].sum(dim=0) > 0, source  # Σ_{i∈P'} A_ij > 0


@torch.inference_mode()
def within_mass(logits: Tensor, mass: float) -> Tensor:
    """Sets all logits to zero but the largest, those that hold the share ``mass`` of their sum (the authors' program).

    From the smallest on, each is divided by the sum and added up; what lies above 1 - mass stays. That is the rule for
    attention, which is positive, applied to raw logits. So it depends on their mean: far above zero, patches are cut from the
    bottom; around zero, the cut is erratic; below, zeros outrank what stays, and the least attended patches come first.

    Args:
        logits: float (N,), of any sign. Of equal ones at the cut, those with the higher index stay.
        mass: Share in (0, 1).

    Returns:
        float (N,); all zero where the sum is.
    """
    ascending, order = torch.sort(logits.double(), stable=True)
    kept = order[(ascending / ascending.sum()).cumsum(dim=0) > 1 - mass]
    return torch.zeros_like(logits).scatter(0, kept, logits[kept])


def width_of_heads(heads: int | Literal["all"], there: int, width: int) -> int:
    """Returns how many of ``width`` numbers, ``there`` heads side by side, belong to the first ``heads``.

    Raises:
        StageError: There are fewer heads.
    """
    if heads == "all":
        return width
    if heads > there:
        raise StageError(f"there are no {heads} heads in a block of {there}", hint=f"set heads: to all, or to 1 to {there}")
    return width // there * heads


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


def instance_of(mask: Bitmap, drawn: Bitmap) -> Instances:
    """Returns the instance that is ``drawn`` for a mask, with the mask's own box; none where nothing is drawn."""
    found = Instances.from_masks(drawn[None][: int(drawn.any())])
    return found if drawn is mask else replace(found, boxes=Instances.from_masks(mask[None][: len(found)]).boxes)
