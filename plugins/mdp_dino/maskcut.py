"""Prior ``maskcut``: several masks an image, by normalised cuts one after the other.

Wang, Girdhar, Yu and Misra, "Cut and Learn for Unsupervised Object Detection and Instance Segmentation" (CVPR 2023; CutLER), §3.2:

1. The graph and its cut are TokenCut's (their Eq. 2), with another τ, on a square image.
2. The object's side is that of the patch with the largest |v|, unless it holds three of the image's four corners; then it is the other
   one. Of that side the part that holds the patch where v is most extreme is kept.
3. The features of its patches become zero, and the rest is cut again (Eq. 3), N times in all.
4. A dense CRF moves each mask's borders, and a mask that it changes beyond recognition is dropped.

A zero feature is like nothing, not even itself, so that the graph after a mask is the graph before with ε in the mask's rows and
columns. It is therefore built once. A cut that finds nothing new leaves the graph as it is, and every later cut would be the same one:
it is the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mdp_backbones.preprocess import pad_to_multiple
from mdp_core.api import Bitmap, ImageRecord, Instances, Pixels
from mdp_crf.mean_field import bilateral, gaussian, mean_field
from mdp_dino.cells import enlarged
from mdp_dino.components import component_of
from mdp_dino.ncut import at_most, bipartition, cohesion, first_of, peak, threshold_graph, unit
from mdp_dino.patches import Grouping, Patches, PatchPrior
from mdp_dino.pixels import Size
from mdp_dino.settings.maskcut import MaskCutConfig

CORNERS = 3
"""A side with so many of the image's four corners is the background."""
SAME = 0.5
"""A mask that overlaps the one before by more (IoU) is the same object."""
SMALLEST = 0.01
"""Share of the patches that every mask but the first must exceed."""
RECOGNISED = 0.5
"""A mask must overlap what the CRF made of it by at least this (IoU)."""


@dataclass(frozen=True)
class Part:
    """What one cut found.

    Attributes:
        mask: bool (rows, columns), without the patches of earlier parts.
        score: What the cut round it is worth (``cohesion``), in the graph that it was cut from.
    """

    mask: Bitmap
    score: float


class MaskCut(PatchPrior[MaskCutConfig]):
    """Finds up to ``masks`` objects, one cut after the other."""

    Config = MaskCutConfig

    def group(self, patches: Patches) -> Grouping:
        """Returns the masks, of pixels, in the order of the cuts; each score is what the cut round the mask is worth, before the CRF.

        There is no object where the image has one colour, where the graph has no cut of its own, and where the CRF drops every mask.
        """
        config, size = self.config, (patches.pixels.shape[0], patches.pixels.shape[1])
        if patches.plain:
            return Grouping.nothing(size, 1)
        features = unit(patches.values[config.facet], centred=config.centre_keys)
        graph = threshold_graph(features, config.tau, config.eps)
        parts = object_parts(graph, patches.grid, eps=config.eps, count=config.masks)
        coarse = [enlarged(part.mask, patches.patch, size) for part in parts]
        fine = sharpened(coarse, patches.pixels) if config.crf else [ndimage.binary_fill_holes(mask) for mask in coarse]
        kept = [index for index in range(len(parts)) if fine[index].any() and overlap(fine[index], coarse[index]) >= RECOGNISED]
        if not kept:
            return Grouping.nothing(size, 1)
        return Grouping(np.stack([fine[i] for i in kept]), np.array([parts[i].score for i in kept], np.float32), 1)

    def input_size(self, size: Size) -> Size:
        """Returns (height, width) at which the network sees an image of ``size``: a square, whatever its shape, unless told otherwise."""
        side = self.config.square
        wanted = super().input_size(size) if side is None else (side, side)
        return at_most(wanted, self.reader.patch, self.config.max_patches)

    def _picture(self, pixels: Pixels, size: Size) -> Pixels:
        """Resizes with Lanczos' filter, as published, where the other priors take a bilinear one."""
        resized = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.LANCZOS))
        return pad_to_multiple(resized, self.reader.patch) if self.config.padding == "edge" else resized

    def instances(self, grouping: Grouping, record: ImageRecord) -> Instances:
        """Returns the masks at the image's size: Pillow's bicubic filter, above one half."""
        size = record.height, record.width
        height, width = self.input_size(size)
        masks = [resized(mask[:height, :width], size) for mask in grouping.masks]
        there = [index for index, mask in enumerate(masks) if mask.any()]
        stacked = np.stack([masks[i] for i in there]) if there else np.zeros((0, *size), np.bool_)
        return Instances.from_masks(stacked, scores=grouping.scores[there])


def object_parts(graph: NDArray[np.float64], grid: Size, *, eps: float, count: int) -> list[Part]:
    """Cuts an object out of a graph, up to ``count`` times.

    Args:
        graph: float64 (N, N), as ``threshold_graph`` gives it; what is found loses its links in it.
        grid: (rows, columns), N patches.
        eps: What is left of a link.
        count: Cuts at most.

    Returns:
        The parts, none empty; they share no patch.
    """
    parts: list[Part] = []
    before, taken = np.zeros(grid, np.bool_), np.zeros(grid, np.bool_)
    for number in range(count):
        mask = object_patches(graph, grid)
        if mask is None or (number > 0 and (overlap(mask, before) > SAME or mask.mean() <= SMALLEST)):
            break
        if (mask & ~taken).any():
            parts.append(Part(mask & ~taken, cohesion(graph, mask.ravel())))
        before, taken, found = mask, taken | mask, mask.ravel()
        graph[found] = eps
        graph[:, found] = eps
    return parts


def object_patches(graph: NDArray[np.float64], grid: Size) -> Bitmap | None:
    """Returns the object's part of one cut, bool (rows, columns), or None where the graph has no cut of its own.

    The published program turns a side with three corners round only where the solver happened to give the eigenvector the sign
    that puts its peak above the mean: with the other sign its peak turns it back. Here the peak is always positive, and the corners decide.
    """
    cut = bipartition(graph)
    if cut is None:
        return None
    vector, side = cut.vector, cut.foreground.reshape(grid)
    seed = peak(vector)
    if int(side[0, 0]) + int(side[0, -1]) + int(side[-1, 0]) + int(side[-1, -1]) >= CORNERS:
        side, seed = ~side, first_of(-vector)
    return component_of(side, divmod(seed, grid[1]))


def sharpened(masks: Sequence[Bitmap], pixels: Pixels) -> list[Bitmap]:
    """Moves the borders of masks to those of the image, by a dense CRF with the published constants, and fills holes.

    Args:
        masks: bool (height, width) each.
        pixels: uint8 (height, width, 3).
    """
    if not masks:
        return []
    height, width = pixels.shape[:2]
    kernels = [gaussian(height, width, weight=7, sxy=3), bilateral(pixels, weight=10, sxy=50, srgb=5)]
    sure, unsure = np.float32(np.log1p(np.exp(-1))), np.float32(np.log1p(np.exp(1)))  # -log softmax of 1 and 0
    fine = []
    for mask in masks:
        energies = np.where(np.stack([~mask.ravel(), mask.ravel()], axis=1), sure, unsure)
        chosen = mean_field(energies, kernels, iterations=10).argmax(axis=1).reshape(height, width)
        fine.append(ndimage.binary_fill_holes(chosen))
    return fine


def resized(mask: Bitmap, size: Size) -> Bitmap:
    """Brings bool (height, width) to another size, by Pillow's bicubic filter, above one half."""
    bitmap = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(bitmap.resize(size[::-1], Image.Resampling.BICUBIC)) > 127


def overlap(one: Bitmap, other: Bitmap) -> float:
    """Returns the intersection over the union of two masks; 0 where both are empty."""
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 0.0
