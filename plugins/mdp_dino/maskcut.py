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

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdp_core.api import Bitmap
from mdp_dino.components import component_of
from mdp_dino.ncut import at_most, bipartition, cohesion, first_of, peak, threshold_graph, unit
from mdp_dino.patches import Grouping, Patches
from mdp_dino.pixels import Size
from mdp_dino.settings.maskcut import MaskCutConfig
from mdp_dino.squares import SquarePrior, overlap

CORNERS = 3
"""A side with so many of the image's four corners is the background."""
SAME = 0.5
"""A mask that overlaps the one before by more (IoU) is the same object."""
SMALLEST = 0.01
"""Share of the patches that every mask but the first must exceed."""


@dataclass(frozen=True)
class Part:
    """What one cut found.

    Attributes:
        mask: bool (rows, columns), without the patches of earlier parts.
        score: What the cut round it is worth (``cohesion``), in the graph that it was cut from.
    """

    mask: Bitmap
    score: float


class MaskCut(SquarePrior[MaskCutConfig]):
    """Finds up to ``masks`` objects, one cut after the other."""

    Config = MaskCutConfig

    def group(self, patches: Patches) -> Grouping:
        """Returns the masks, of pixels, in the order of the cuts; each score is what the cut round the mask is worth, before the CRF.

        There is no object where the image has one colour, where the graph has no cut of its own, and where the CRF drops every mask.
        """
        config = self.config
        if patches.plain:
            return Grouping.nothing((patches.pixels.shape[0], patches.pixels.shape[1]), 1)
        features = unit(patches.values[config.facet], centred=config.centre_keys)
        graph = threshold_graph(features, config.tau, config.eps)
        parts = object_parts(graph, patches.grid, eps=config.eps, count=config.masks)
        return self.sharpened_grouping([part.mask for part in parts], [part.score for part in parts], patches)

    def input_size(self, size: Size) -> Size:
        """Returns (height, width) at which the network sees an image of ``size``: no more than ``max_patches``."""
        return at_most(super().input_size(size), self.reader.patch, self.config.max_patches)


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
