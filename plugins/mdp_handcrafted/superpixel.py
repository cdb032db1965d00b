"""Prior ``superpixel``: superpixels, merged to regions of an object's size, of which those that stand out become masks.

The handcrafted grouping that MaskDistill (§1, Fig. 1) and its predecessors compare themselves with, made of published parts:
superpixels by SLIC (Achanta et al., TPAMI 2012) or by Felzenszwalb and Huttenlocher (IJCV 2004), both from scikit-image; a tree of
regions, as in Selective Search (Uijlings et al., IJCV 2013), grown by Ward's criterion on colour (JASA 1963); region contrast as in
Cheng et al. (CVPR 2011), Otsu's separation (1979) for region against rest, and the boundary prior of Zhu et al. (CVPR 2014).

Every node of the tree is looked at, not one partition: no threshold on colour suits two photographs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import felzenszwalb, slic

from mdp_core.api import Pixels
from mdp_handcrafted.region_prior import RegionPrior, border_prior, of_object_size
from mdp_handcrafted.regions import STEPS, Floats, Growing, Integers, Labels, MergeTree, merge, region_graph, to_lab
from mdp_handcrafted.settings.superpixel import SuperpixelConfig


class Superpixel(RegionPrior[SuperpixelConfig]):
    """Mines the regions of superpixels that stand out from the rest of the image."""

    Config = SuperpixelConfig

    def tree(self, pixels: Pixels) -> MergeTree:
        """Merges superpixels, those that are most alike first."""
        lab = to_lab(pixels)
        return merge(region_graph(superpixels(pixels, lab, self.config), lab), ward)

    def scores(self, tree: MergeTree) -> Floats:
        """Returns √(contrast · separation) · border prior: 1 is a white region, alone on black, that touches no border.

        Contrast, in units of 100 (from black to white) and at most 1, is the colour's distance to the superpixels around;
        separation is the share of the image's colour variance that goes when the region gets a mean colour of its own.
        """
        config = self.config
        contrasts = contrast(tree, of_object_size(tree, np.ones(len(tree.areas)), config.min_area, config.max_area) > 0)
        likely = np.sqrt(np.minimum(contrasts / 100, 1) * separation(tree)) * border_prior(tree, config.border)
        return np.where(contrasts >= config.min_contrast, likely, 0.0)


def superpixels(pixels: Pixels, lab: Integers, config: SuperpixelConfig) -> Labels:
    """Returns the superpixel of each pixel, int (H, W).

    scikit-image's SLIC stretches what it is given to [0, 1]. Compactness is divided by the same number, so that it stays a distance
    in Lab, as in the paper, and the noise of a dull image is not blown up.

    Args:
        pixels: uint8 (H, W, 3).
        lab: The same in Lab, see ``to_lab``.
        config: Which superpixels.
    """
    if config.method == "felzenszwalb":
        graph = config.felzenszwalb
        return felzenszwalb(pixels, scale=graph.scale, sigma=graph.sigma, min_size=graph.min_size)
    grid, span = config.slic, int(np.ptp(lab)) / STEPS
    return slic(
        lab / STEPS,
        n_segments=grid.segments,
        compactness=grid.compactness / (span or 1.0),
        max_num_iter=grid.iterations,
        sigma=grid.sigma,
        convert2lab=False,
        start_label=0,
    )


def ward(growing: Growing, a: int, b: int) -> float:
    """Returns |a| |b| / (|a| + |b|) · ‖mean Lab of a - mean Lab of b‖²: what a merge adds to the squared error (Ward 1963)."""
    (x, y, z), (u, v, w), s, t = growing.colours[a], growing.colours[b], growing.areas[a], growing.areas[b]
    squared = (x / s - u / t) ** 2 + (y / s - v / t) ** 2 + (z / s - w / t) ** 2
    return s * t / (s + t) * squared / STEPS**2


def contrast(tree: MergeTree, wanted: NDArray[np.bool_]) -> Floats:
    """Returns how far the mean Lab of each wanted node lies from those of the leaves around it, by their common boundary; 0 for others.

    Args:
        tree: The regions, n leaves.
        wanted: bool (2n - 1,).
    """
    leaves = len(tree.graph.areas)
    inner, outer = np.concatenate([tree.graph.pairs, tree.graph.pairs[:, ::-1]]).T
    lengths, around = np.tile(tree.graph.lengths, 2), tree.colours[:leaves][outer]
    found = np.zeros(len(tree.areas))
    for node in np.flatnonzero(wanted):
        holds = tree.holds(node)
        edge = np.flatnonzero(holds[inner] & ~holds[outer])
        if len(edge):
            distances = np.sqrt(((around[edge] - tree.colours[node]) ** 2).sum(axis=1))
            found[node] = distances @ lengths[edge] / lengths[edge].sum()
    return found


def separation(tree: MergeTree) -> Floats:
    """Returns the share of the colour variance of all pixels that lies between each node and the rest; 0 where there is none."""
    graph = tree.graph
    pixels, total = int(tree.areas[-1]), [int(value) for value in graph.colours.sum(axis=0)]
    variance = (pixels * graph.squares - sum(value * value for value in total)) / (pixels * STEPS) ** 2
    if variance == 0:
        return np.zeros(len(tree.areas))
    share = tree.areas[:-1] / pixels
    between = share / (1 - share) * ((tree.colours[:-1] - tree.colours[-1]) ** 2).sum(axis=1)
    return np.append(np.minimum(between / variance, 1), 0.0)
