"""What the priors on a tree of regions share: images go in, a method grows a tree and scores its nodes, the best become masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mdp_core.api import Bitmap, GroupingPrior, Images, Instances, Pixels
from mdp_handcrafted.regions import Floats, MergeTree
from mdp_handcrafted.settings.regions import RegionPriorConfig

ConfigT = TypeVar("ConfigT", bound=RegionPriorConfig)
Size = tuple[int, int]
"""(height, width) in pixels."""


class RegionPrior(GroupingPrior[ConfigT], ABC):
    """Mines the regions of each image that a method's score ranks highest."""

    @abstractmethod
    def tree(self, pixels: Pixels) -> MergeTree:
        """Grows the tree of one image, at the size at which it is worked on."""

    @abstractmethod
    def scores(self, tree: MergeTree) -> Floats:
        """Returns float64 (nodes,) in [0, 1]; 0 where a node is no object."""

    def mine(self, images: Images) -> Iterator[Instances]:
        """Yields the masks of each image, best first, with scores in (0, 1] and tight boxes, labels -1."""
        config = self.config
        for record, pixels in zip(images.records, images, strict=True):
            size = record.height, record.width
            tree = self.tree(shrunk(pixels, config.max_side))
            scores = of_object_size(tree, self.scores(tree), config.min_area, config.max_area).astype(np.float32)
            masks, kept = best(tree, scores, config)
            stacked = np.stack([enlarged(mask, size) for mask in masks]) if masks else np.zeros((0, *size), np.bool_)
            yield Instances.from_masks(stacked, scores=scores[kept])


def shrunk(pixels: Pixels, max_side: int | None) -> Pixels:
    """Resizes uint8 (H, W, 3) with Pillow's bilinear filter until its longer side is ``max_side``; smaller images stay as they are."""
    height, width = pixels.shape[:2]
    if max_side is None or max(height, width) <= max_side:
        return pixels
    factor = max_side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def enlarged(mask: Bitmap, size: Size) -> Bitmap:
    """Brings bool (h, w) to ``size``, not smaller; each pixel takes the nearest one, and none is lost."""
    if mask.shape == size:
        return mask
    rows, columns = ((2 * np.arange(to) + 1) * side // (2 * to) for side, to in zip(mask.shape, size, strict=True))
    return mask[np.ix_(rows, columns)]


def border_prior(tree: MergeTree, sigma: float | None) -> Floats:
    """Returns exp(-b² / 2σ²) for each node, b = pixel sides on the image's border / √area (Zhu et al., CVPR 2014, Eqs. 3 and 9).

    b is 0 for a region inside the image, 1 for a square with one side on the border, and 4 for the whole of a square image.

    Args:
        tree: The regions.
        sigma: σ; None: 1 for every node.
    """
    if sigma is None:
        return np.ones(len(tree.areas))
    return np.exp(-(tree.borders**2) / tree.areas / (2 * sigma**2))


def of_object_size(tree: MergeTree, scores: Floats, min_area: float, max_area: float) -> Floats:
    """Sets to 0 the scores of nodes that cover less or more of the image than an object, and that of the whole image."""
    share = tree.areas / tree.areas[-1]
    fits = (share >= min_area) & (share <= max_area)
    fits[-1] = False
    return np.where(fits, scores, 0.0)


def best(tree: MergeTree, scores: NDArray[np.float32], config: RegionPriorConfig) -> tuple[list[Bitmap], list[int]]:
    """Returns the masks of the best nodes and their numbers, best first; of equal scores the node born last goes first.

    A node is left out where its mask overlaps that of a better one by more than ``config.max_iou``.
    """
    masks: list[Bitmap] = []
    nodes: list[int] = []
    order = sorted(np.flatnonzero((scores > 0) & (scores >= config.min_score)), key=lambda node: (-scores[node], -node))
    for node in order:
        if len(masks) == config.masks:
            break
        if config.max_iou == 0 and any(tree.nested(node, other) for other in nodes):
            continue  # only saves time: they share pixels
        mask = without_holes(tree.mask(node), config.max_area) if config.fill_holes else tree.mask(node)
        if all(_iou(mask, other) <= config.max_iou for other in masks):
            masks.append(mask)
            nodes.append(int(node))
    return masks, nodes


def without_holes(mask: Bitmap, max_area: float) -> Bitmap:
    """Fills what a mask encloses (8-connected outlines do not), unless it would then cover more than ``max_area`` of the image."""
    filled = ndimage.binary_fill_holes(mask)
    return filled if filled.mean() <= max_area else mask


def _iou(first: Bitmap, second: Bitmap) -> float:
    return float((first & second).sum() / (first | second).sum())
