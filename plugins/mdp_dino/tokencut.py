"""Prior ``tokencut``: one mask an image, one side of the normalised cut of the graph of patches.

Wang, Shen, Hu, Yuan, Crowley and Vaufreydaz, "Self-Supervised Transformers for Unsupervised Object Discovery using Normalized Cut"
(CVPR 2022), and "TokenCut: Segmenting Objects in Images and Videos …" (TPAMI 2023):

1. Patches are nodes, linked by 1 where the cosine of their keys is above τ, by ε elsewhere (their Eq. 6).
2. The second smallest solution v of (D - W) v = λ D v is split at its mean (Eq. 7 and 8).
3. The object is the side of the patch with the largest |v|, of which the 4-connected part that holds this patch is kept.

An eigenvector has no sign. Here its entry of largest magnitude is positive, so that the side above the mean is always the object's, and
nothing needs to be turned round.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mdp_core.api import Bitmap, Pixels
from mdp_dino.cells import enlarged
from mdp_dino.components import component_of
from mdp_dino.ncut import at_most, bipartition, cohesion, peak, threshold_graph, unit
from mdp_dino.patches import Grouping, Patches, PatchPrior
from mdp_dino.pixels import Size
from mdp_dino.settings.tokencut import TokenCutConfig

TRUST = 0.999
"""The bilateral solver's confidence in the mask of patches; the program's number."""


class TokenCut(PatchPrior[TokenCutConfig]):
    """Finds the object that the normalised cut sets apart."""

    Config = TokenCutConfig

    def group(self, patches: Patches) -> Grouping:
        """Returns one mask; its score is what the cut round it is worth (``cohesion``), before the bilateral solver.

        There is no object where the image has one colour, or the graph no cut of its own: all patches are alike, none is like
        another, or there are fewer than three.
        """
        config, nothing = self.config, Grouping.nothing(patches.grid, patches.patch)
        if patches.plain:
            return nothing
        features = unit(patches.values[config.facet], centred=config.centre_keys)
        graph = threshold_graph(features, config.tau, config.eps)
        mask = object_patches(graph, patches.grid, component=config.component)
        if mask is None:
            return nothing
        scores = np.array([cohesion(graph, mask.ravel())], np.float32)
        if not config.bilateral_solver:
            return Grouping(mask[None], scores, patches.patch)
        return Grouping(sharpened(mask, patches.pixels, patches.patch)[None], scores, 1)

    def input_size(self, size: Size) -> Size:
        """Returns (height, width) at which the network sees an image of ``size``: no more than ``max_patches``."""
        return at_most(super().input_size(size), self.reader.patch, self.config.max_patches)


def object_patches(graph: NDArray[np.float64], grid: Size, *, component: Literal["seed", "all"] = "seed") -> Bitmap | None:
    """Returns the object's side of the normalised cut, or the seed's part of it.

    Args:
        graph: float64 (N, N), as ``threshold_graph`` gives it.
        grid: (rows, columns), N patches.
        component: seed: the 4-connected part of the patch with the largest |v|; all: the whole side.

    Returns:
        bool (rows, columns); None where the graph has no cut of its own.
    """
    cut = bipartition(graph)
    if cut is None:
        return None
    side = cut.foreground.reshape(grid)
    return side if component == "all" else component_of(side, divmod(peak(cut.vector), grid[1]))


def sharpened(mask: Bitmap, pixels: Pixels, patch: int) -> Bitmap:
    """Moves the border of a mask to one of the image: bilateral solver, above one half, holes filled, largest part.

    The published program takes the second largest label, background counted, for the object, and turns the mask round where it
    overlaps what it came from by less than half: then that label was the background. Here labels are of the object alone, and where they
    overlap it by less than half, the solver lost it.

    Args:
        mask: bool (rows, columns).
        pixels: uint8 (height, width, 3).
        patch: Side of a patch in pixels.

    Returns:
        bool (height, width); the mask as it came where the result overlaps it by less than half (IoU).
    """
    from mdp_dino.bilateral_solver import solve  # only where it is asked for

    coarse = enlarged(mask, patch, (pixels.shape[0], pixels.shape[1]))
    solved = solve(pixels, coarse.astype(np.float32), TRUST, sigma_spatial=16, sigma_luma=16, sigma_chroma=8)
    labels, _ = ndimage.label(ndimage.binary_fill_holes(solved > 0.5))
    sizes = np.bincount(labels.ravel(), minlength=2)[1:]
    fine = labels == 1 + int(sizes.argmax())
    return fine if (fine & coarse).sum() >= 0.5 * (fine | coarse).sum() else coarse
