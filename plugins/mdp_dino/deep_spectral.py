"""Prior ``deep-spectral``: objects and segments from the spectrum of the graph of patches.

Melas-Kyriazi, Rupprecht, Laina and Vedaldi, "Deep Spectral Methods: A Surprisingly Strong Baseline for Unsupervised Semantic
Segmentation and Localization", CVPR 2022, https://arxiv.org/abs/2205.07839.

The graph's weights are W = W_feat + λ W_knn: how alike two patches are to the network, plus how near they are in colour and position.
The eigenvectors of (D - W) v = μ D v with the smallest eigenvalues split it softly. The first is constant; the sign of the second,
the Fiedler vector, parts an object from its background, and k-means on all of them parts a scene.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.spatial import KDTree
from skimage.color import rgb2hsv
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional

from mdp_backbones.preprocess import pad_to_multiple, resize
from mdp_core.api import Bitmap, Pixels
from mdp_crf.mean_field import bilateral, gaussian, mean_field
from mdp_dino.cells import coverage, enlarged
from mdp_dino.ncut import at_most, smallest_eigenvectors
from mdp_dino.patches import Grouping, Patches, PatchPrior
from mdp_dino.pixels import Size
from mdp_dino.settings.deep_spectral import DeepSpectralConfig

Weights = NDArray[np.float32]
"""float32 (N, N), symmetric, not negative."""
Labels = NDArray[np.int64]
"""int64 (rows, columns) or (height, width): 0 is the background."""

LEAST_CONTRAST = 1e-4
"""What has less is the rounding of float32: its patches are no more alike than any others."""
CRF_SURE = 0.99
"""Probability that a pixel has the label of its patch, and this far from 0 that it has another, before the CRF."""


class DeepSpectral(PatchPrior[DeepSpectralConfig]):
    """Finds one object an image, or segments the image."""

    Config = DeepSpectralConfig

    def group(self, patches: Patches) -> Grouping:
        """Returns the masks, the one of the highest contrast first; none where nothing differs from what surrounds it."""
        config, grid, stride = self.config, patches.grid, patches.patch
        if patches.plain or grid[0] * grid[1] < 2:
            return Grouping.nothing(grid, stride)
        alike = feature_affinity(patches.features(config.facet, centred=config.centre_keys))
        labels = self._labels(patches, alike).reshape(grid)
        if config.crf:
            labels, stride = refined(labels, patches.pixels, patches.patch), 1
        masks = list(segments(labels, config.component))
        covered = masks if stride > 1 else [coverage(mask, patches.patch, grid) for mask in masks]
        scores = np.array([contrast(alike, share.ravel().astype(np.float64)) for share in covered], np.float32)
        order = [index for index in np.argsort(-scores, kind="stable") if scores[index] > LEAST_CONTRAST]
        return Grouping(np.stack([masks[i] for i in order]), scores[order], stride) if order else Grouping.nothing(grid, stride)

    def input_size(self, size: Size) -> Size:
        """Returns (height, width) at which the network sees an image of ``size``: no more than ``max_patches``."""
        return at_most(super().input_size(size), self.reader.patch, self.config.max_patches)

    def _labels(self, patches: Patches, alike: Weights) -> Labels:
        """Returns int64 (N,), the segment of each patch, 0 for the background."""
        config, weights = self.config, alike
        if config.colour_weight:
            colours = patch_colours(patches.pixels, patches.patch, patches.grid)
            weights = plus(alike, colour_affinity(colours, config.colour_neighbours), config.colour_weight)
        count = 2 if config.segments == "one" else config.eigenvectors
        values, vectors = smallest_eigenvectors(weights, min(count, len(weights)))
        if config.segments == "one":
            return smaller_side(vectors[:, 1]).astype(np.int64)
        clusters = below_the_largest_gap(values) if config.clusters == "eigengap" else config.clusters
        return background_first(k_means(vectors[:, 1:], clusters).reshape(patches.grid))


@torch.inference_mode()
def feature_affinity(features: Tensor) -> Weights:
    """Returns W_feat = max(F Fᵀ, 0) / max(F Fᵀ), for features F of length 1 (§3.2).

    A patch without features is like itself alone.

    Args:
        features: float (N, d).
    """
    unit = functional.normalize(features, dim=1)
    alike = (unit @ unit.T).relu_()
    missing = alike.diagonal() == 0
    alike.diagonal()[missing] = 1
    return alike.div_(alike.max()).cpu().numpy()


def patch_colours(pixels: Pixels, patch: int, grid: Size) -> Pixels:
    """Returns uint8 (rows, columns, 3): the image, resized to one pixel a patch."""
    return resize(pad_to_multiple(pixels, patch), *grid)


def colour_affinity(colours: Pixels, neighbours: int) -> sparse.csr_array:
    """Returns W_knn, float32 (N, N): 1 - ‖ψ(u) - ψ(v)‖ where v is one of u's nearest neighbours, otherwise 0 (§3.2, after KNN matting).

    ψ = (cos h, sin h, s, v, x, y), with all but the first two in [0, 1]. Being a neighbour is no mutual matter: the weight is the
    mean over both directions. Neighbours farther away than 1 weigh nothing.

    Args:
        colours: uint8 (rows, columns, 3), one pixel a patch.
        neighbours: Of each patch, itself included.
    """
    rows, columns = colours.shape[:2]
    hue, saturation, value = rgb2hsv(colours).reshape(-1, 3).T
    y, x = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    angle = 2 * np.pi * hue
    points = np.stack([np.cos(angle), np.sin(angle), saturation, value, x.ravel(), y.ravel()], axis=1)
    count = min(neighbours, len(points))
    distances, nearest = KDTree(points).query(points, k=np.arange(1, count + 1))
    weights = np.maximum(1 - distances, 0).astype(np.float32).ravel()
    here = np.arange(len(points)).repeat(count)
    directed = sparse.csr_array((weights, (here, nearest.ravel())), shape=(len(points), len(points)))
    return ((directed + directed.T) / 2).tocsr()


def plus(alike: Weights, tied: sparse.csr_array, factor: float) -> Weights:
    """Returns alike + factor · tied, of which few entries differ from ``alike``."""
    both, ties = alike.copy(), tied.tocoo()
    both[ties.coords] += (factor * ties.data).astype(np.float32)
    return both


def smaller_side(fiedler: NDArray[np.float64]) -> Bitmap:
    """Returns the patches (N,) where the Fiedler vector is positive, or, if these are more than half, negative: the object (§3.3).

    Of two halves it is the positive one, which by the convention of ``smallest_eigenvectors`` has the entry of largest magnitude.
    """
    positive = fiedler > 0
    return fiedler < 0 if positive.mean() > 0.5 else positive


def below_the_largest_gap(eigenvalues: NDArray[np.float64]) -> int:
    """Returns how many of the ascending eigenvalues lie below the largest gap between neighbours, the first gap left out; at least 2."""
    gaps = np.diff(eigenvalues)[1:]
    return 2 + int(gaps.argmax()) if gaps.size else 2


def k_means(points: NDArray[np.float64], clusters: int) -> Labels:
    """Clusters (N, d) into at most as many clusters as there are different points; the best of ten starts, the same ones each time."""
    different = len(np.unique(points, axis=0))
    with threadpool_limits(limits=1, user_api="openmp"):  # several threads would add up in any order
        return KMeans(min(clusters, different), n_init=10, random_state=0).fit_predict(points).astype(np.int64)


def background_first(labels: Labels) -> Labels:
    """Swaps label 0 with the one that most of the border has: of the four sides, so that corners count twice.

    Args:
        labels: int64 (rows, columns), not negative.
    """
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    background = np.bincount(border).argmax()
    names = np.arange(labels.max() + 1)
    names[[0, background]] = names[[background, 0]]
    return names[labels]


def refined(labels: Labels, pixels: Pixels, patch: int) -> Labels:
    """Moves the borders of labels to those of the image, with a dense CRF and the paper's constants.

    Args:
        labels: int64 (rows, columns), every number from 0 to the largest.
        pixels: uint8 (height, width, 3).
        patch: Side of a patch in pixels.

    Returns:
        int64 (height, width).
    """
    height, width = pixels.shape[:2]
    hard = enlarged(labels, patch, (height, width))
    if not hard.any():
        return hard
    known = hard.ravel()[:, None] == np.arange(labels.max() + 1)
    energies = -np.log(np.where(known, np.float32(CRF_SURE), np.float32(1 - CRF_SURE)))
    kernels = [gaussian(height, width, weight=3, sxy=3), bilateral(pixels, weight=10, sxy=80, srgb=13)]
    return mean_field(energies, kernels, iterations=5).argmax(axis=1).reshape(hard.shape)


def segments(labels: Labels, component: Literal["largest", "all"]) -> Iterator[Bitmap]:
    """Yields the mask of each label but 0: all of it, or its largest 8-connected part (the first of equals)."""
    for label in np.unique(labels[labels > 0]):
        mask = labels == label
        if component == "largest":
            parts, _ = ndimage.label(mask, structure=np.ones((3, 3)))
            mask = parts == 1 + np.bincount(parts[mask])[1:].argmax()
        yield mask


def contrast(alike: Weights, share: NDArray[np.float64]) -> float:
    """Returns how much more alike the patches of a mask are than the mask and its surroundings: 1 - between / within.

    ``within`` is the mean of W_feat over pairs of different patches of the mask, ``between`` over pairs of one inside and one outside.

    Args:
        alike: W_feat.
        share: float64 (N,) in [0, 1], how much of each patch is inside.

    Returns:
        A number in [0, 1]: 1 where mask and surroundings have nothing in common; 0 where they are as alike as the mask is in
        itself, and where there are no two patches inside, or nothing outside.
    """
    towards = alike @ share.astype(np.float32)
    own = (share**2).sum()
    pairs, across = share.sum() ** 2 - own, share.sum() * (1 - share).sum()
    if pairs <= 0 or across <= 0:
        return 0.0
    within = (share @ towards - share**2 @ alike.diagonal()) / pairs
    between = (1 - share) @ towards / across
    return float(np.clip(1 - between / within, 0, 1)) if within > 0 else 0.0
