"""Saliency by robust background detection: regions that lie at the border for much of their outline are background.

Zhu, Liang, Wei, Sun: Saliency Optimization from Robust Background Detection, CVPR 2014. Section 3 is boundary connectivity, 4.1 the
contrast that it weights, 4.2 the optimisation. Constants are the paper's; superpixels are SLIC's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from skimage.segmentation import slic

from mdp_handcrafted.colour import NOTICEABLE, to_lab

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

SIGMA_COLOUR = 10.0
"""σ_clr: colours that far apart (Lab) are no longer of one region."""
SIGMA_PLACE = 0.25
"""σ_spa: how far contrast reaches, as a share of the image's longer side."""
SIGMA_CONNECTIVITY = 1.0
"""σ_BndCon: connectivity from which on a region is background."""
SMOOTHNESS = 0.1
"""μ: neighbours agree by that much whatever their colours."""
COMPACTNESS = 20.0


@dataclass(frozen=True)
class Superpixels:
    """An image's superpixels, n of them.

    Attributes:
        labels: int (H, W), 0 … n-1.
        colours: float64 (n, 3), mean Lab colours.
        places: float64 (n, 2), centres as shares of the longer side.
        neighbours: bool (n, n), symmetric: those that touch.
        border: bool (n,): those at the image's border.
    """

    labels: NDArray[np.int64]
    colours: Matrix
    places: Matrix
    neighbours: NDArray[np.bool_]
    border: NDArray[np.bool_]


def background_map(pixels: NDArray[np.uint8], superpixels: int, background_weight: float = 1.0) -> NDArray[np.float64]:
    """Returns how much each pixel stands out, in [0, 1]; zeros where nothing contrasts noticeably with the background.

    Args:
        pixels: uint8 (H, W, 3) RGB.
        superpixels: About how many superpixels.
        background_weight: Factor of w_bg in Eq. 9; the paper has none.
    """
    found = superpixels_of(pixels, superpixels)
    apart = distances(found.colours)
    background = 1 - np.exp(-(connectivity(apart, found) ** 2) / (2 * SIGMA_CONNECTIVITY**2))
    contrast = weighted_contrast(apart, found.places, background)
    if contrast.max() < NOTICEABLE:
        return np.zeros(found.labels.shape)
    saliency = optimised(apart, found, background_weight * background, contrast / contrast.max())
    return saliency[found.labels]


def superpixels_of(pixels: NDArray[np.uint8], count: int) -> Superpixels:
    """Divides an image into about ``count`` superpixels."""
    height, width = pixels.shape[:2]
    lab = to_lab(pixels)
    raw = slic(pixels, n_segments=count, compactness=COMPACTNESS, start_label=0, channel_axis=-1)
    _, flat, sizes = np.unique(raw, return_inverse=True, return_counts=True)
    labels = flat.reshape(height, width)
    y, x = np.mgrid[:height, :width] / max(height, width)
    mean = [np.bincount(labels.ravel(), values.ravel()) / sizes for values in (*np.moveaxis(lab, -1, 0), y, x)]
    touching = np.zeros((len(sizes), len(sizes)), np.bool_)
    for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        touching[one, other] = touching[other, one] = True
    np.fill_diagonal(touching, val=False)
    border = np.zeros(len(sizes), np.bool_)
    border[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = True
    return Superpixels(labels, np.stack(mean[:3], axis=1), np.stack(mean[3:], axis=1), touching, border)


def distances(points: Matrix) -> Matrix:
    """Returns Euclidean distances between all points, float64 (n, n)."""
    return np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=-1))


def connectivity(apart: Matrix, found: Superpixels) -> Vector:
    """Returns boundary connectivity: length along the border by the square root of the area (Eq. 3 to 6), both soft.

    Superpixels belong to the same region by exp(-d²/2σ²) of their geodesic distance d: the sum of steps in colour along the
    shortest path over neighbours. All those at the border count as neighbours (end of §3.2).
    """
    joined = found.neighbours | np.outer(found.border, found.border)
    np.fill_diagonal(joined, val=False)
    rows, columns = np.nonzero(joined)
    steps = apart[rows, columns] + 1e-9  # a step of no length would be taken for no step
    graph = coo_array((steps, (rows, columns)), shape=joined.shape).tocsr()
    geodesic = dijkstra(graph, directed=False)
    same = np.exp(-(geodesic**2) / (2 * SIGMA_COLOUR**2))
    return (same * found.border).sum(axis=1) / np.sqrt(same.sum(axis=1))


def weighted_contrast(apart: Matrix, places: Matrix, background: Vector) -> Vector:
    """Returns each superpixel's contrast with the background near it (Eq. 8) in units of Lab: its sum over all superpixels by their number."""
    near = np.exp(-(distances(places) ** 2) / (2 * SIGMA_PLACE**2))
    return (apart * near) @ background / len(background)


def optimised(apart: Matrix, found: Superpixels, background: Vector, foreground: Vector) -> Vector:
    """Returns the saliency s that minimises Σ w_bg s² + Σ w_fg (s - 1)² + Σ w_ij (s_i - s_j)² over neighbours (Eq. 9 and 10)."""
    weights = np.where(found.neighbours, np.exp(-(apart**2) / (2 * SIGMA_COLOUR**2)) + SMOOTHNESS, 0.0)
    laplacian = np.diag(weights.sum(axis=1)) - weights
    return solve(laplacian + np.diag(background + foreground), foreground, assume_a="pos")
