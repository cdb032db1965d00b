"""Prior ``hierarchy``: regions that last in a hierarchy that merges across weak boundaries first.

As the hierarchical-grouping baselines do (Arbeláez et al., TPAMI 2011: watershed, then an ultrametric contour map; Zhang and Maire,
NeurIPS 2020, group by it), with one difference: their edges are learnt from boundaries that people drew, which would bring labels in;
here an edge is the Lab gradient. ``size_power`` is an addition, in the manner of hierarchical watersheds by area (Najman 2011).

A region is born at the height of the last merge inside it, and dies at that of the merge with something else. What lives long is held
together by weaker boundaries than the one around it.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from mdp_core.api import Pixels
from mdp_handcrafted.region_prior import RegionPrior, border_prior
from mdp_handcrafted.regions import STEPS, Cost, Floats, Growing, Integers, MergeTree, merge, region_graph, to_lab
from mdp_handcrafted.settings.hierarchy import HierarchyConfig


class Hierarchy(RegionPrior[HierarchyConfig]):
    """Mines the most stable regions of a hierarchy."""

    Config = HierarchyConfig

    def tree(self, pixels: Pixels) -> MergeTree:
        """Merges the basins of the gradient across the weakest boundary first."""
        lab = to_lab(pixels)
        slope = gradient(lab, self.config.sigma)
        return merge(region_graph(watershed(slope), lab, slope), boundary(slope.size, self.config.size_power))

    def scores(self, tree: MergeTree) -> Floats:
        """Returns lifetime · border prior; 1 is a region that is there from the first merge to the last and touches no border."""
        config = self.config
        differs = np.sqrt(((tree.colours - tree.colours[tree.siblings]) ** 2).sum(axis=1)) >= config.min_contrast
        lasting = np.where((tree.deaths >= config.threshold) & differs, lifetime(tree), 0.0)
        return lasting * border_prior(tree, config.border)


def gradient(lab: Integers, sigma: float) -> Integers:
    """Returns the length of the gradient (Sobel) of blurred Lab over all three channels, in units a pixel.

    Args:
        lab: int64 (H, W, 3), in steps of 1/64.
        sigma: Standard deviation of the blur in pixels.

    Returns:
        int64 (H, W), in steps of 1/64.
    """
    channels = [ndimage.gaussian_filter(plane, sigma, mode="nearest") for plane in np.moveaxis(lab.astype(np.float64), 2, 0)]
    slopes = [ndimage.sobel(channel, axis, mode="nearest") / 8 for channel in channels for axis in (0, 1)]
    return np.rint(np.sqrt(sum(slope**2 for slope in slopes))).astype(np.int64)


def boundary(pixels: int, size_power: float) -> Cost:
    """Returns the cost of a merge: mean gradient along the common boundary · (area of the smaller / pixels)^size_power."""

    def strength(growing: Growing, a: int, b: int) -> float:
        length, total = growing.neighbours[a][b]
        share = min(growing.areas[a], growing.areas[b]) / pixels
        return total / (2 * STEPS * length) * share**size_power

    return strength


def lifetime(tree: MergeTree) -> Floats:
    """Returns (death - birth) / height of the last merge for each node, in [0, 1]; 0 for the whole image, and where nothing has an edge."""
    height = tree.births[-1]
    if height == 0:
        return np.zeros(len(tree.births))
    return np.append(tree.deaths[:-1] - tree.births[:-1], 0.0) / height
