"""The fast bilateral solver: a map that follows its target, and changes only where the image does.

Barron and Poole, "The fast bilateral solver" (ECCV 2016). Over all maps x it minimises (their Eq. 1)

    λ/2 Σ_ij Ŵ_ij (x_i - x_j)² + Σ_i c_i (x_i - t_i)²

for a target t, confidences c and the bilateral affinities Ŵ of pixels, made bistochastic. Pixels near each other in position and
colour share a vertex of a grid in five dimensions. S sums the pixels of each vertex ("splat"), Sᵀ reads them back ("slice"), and
with x = Sᵀy the problem is the linear system A y = b on the few vertices that hold a pixel:

    A = λ (D_m - D_n B D_n) + diag(S c),    b = S (c ∘ t)

where B blurs the grid and D_n, D_m make the blur bistochastic. It is solved by conjugate gradients with Jacobi's preconditioner
from the flat start, as the authors' Python program does, which TokenCut and FOUND sharpen their masks with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import cg

from mdp_core.api import Pixels

Vector = NDArray[np.float64]
Map = NDArray[np.float32]

YUV = np.array([[299_000, 587_000, 114_000], [-168_736, -331_264, 500_000], [500_000, -418_688, -81_312]])
"""JPEG's luma and chromas of red, green and blue, in millionths. Whole numbers are exact, and that decides: a grey pixel's chroma
of 128 lies on the border between two cells, for most widths."""
YUV_OFFSET = np.array([0, 128_000_000, 128_000_000])
MILLIONTHS = 1e6
ROUNDS = 10
"""Of the bistochastisation; the authors' number."""
SMALLEST_DIAGONAL = 1e-5
"""What the preconditioner divides by at least."""


def solve(
    pixels: Pixels,
    target: Map,
    confidence: Map | float,
    *,
    sigma_spatial: float,
    sigma_luma: float,
    sigma_chroma: float,
    smoothness: float = 256,
    iterations: int = 25,
    tolerance: float = 1e-5,
) -> Map:
    """Fits a map to a target, as smooth as the image is.

    Args:
        pixels: uint8 (H, W, 3), red, green, blue.
        target: float32 (H, W) in [0, 1].
        confidence: float32 (H, W) or one for all pixels, at least 0: how much the target is to be believed.
        sigma_spatial: Side of the grid's cells in pixels, above 0.
        sigma_luma: Their width in luma, in levels of 0 to 255.
        sigma_chroma: Their width in both chromas, likewise.
        smoothness: λ, how much differences between similar pixels cost.
        iterations: Conjugate gradient steps at most.
        tolerance: It ends early where the residual's norm is this share of |b|.

    Returns:
        float32 (H, W) in [0, 1]: the minimum lies there, and steps that stop short of it are clipped. All 0 where no pixel has
        any confidence.

    Raises:
        OverflowError: The cells are so small that the grid's size does not fit in 63 bits.
    """
    grid = grid_of(cells(pixels, sigma_spatial, sigma_luma, sigma_chroma))
    weights = np.broadcast_to(np.asarray(confidence, np.float64), target.shape)
    diagonal, right = grid.splat(weights), grid.splat(weights * target)
    matrix = smoothness * grid.laplacian() + sparse.diags_array(diagonal)
    preconditioner = sparse.diags_array(1 / np.maximum(matrix.diagonal(), SMALLEST_DIAGONAL))
    mean = right.sum() / max(diagonal.sum(), np.finfo(np.float64).tiny)
    flat = np.divide(right, diagonal, out=np.full_like(right, mean), where=diagonal > 0)
    solved, _ = cg(matrix, right, x0=flat, rtol=tolerance, maxiter=iterations, M=preconditioner)
    return np.clip(solved, 0, 1).astype(np.float32)[grid.vertex].reshape(target.shape)


@dataclass(frozen=True, eq=False)
class BilateralGrid:
    """The vertices that hold a pixel.

    Attributes:
        vertex: int (N,), the vertex of each pixel, counted from 0 to M - 1.
        blur: CSR (M, M) float64, the sum of the kernel [1 2 1] along each dimension: 2 · dimensions on the diagonal and 1
            between neighbours. It is symmetric.
    """

    vertex: NDArray[np.intp]
    blur: sparse.csr_array

    def splat(self, values: NDArray[np.floating]) -> Vector:
        """Returns S v, the sums over the pixels of each vertex: float (N,) in any shape → float64 (M,)."""
        return np.bincount(self.vertex, weights=values.ravel(), minlength=self.blur.shape[0])

    def laplacian(self) -> sparse.csr_array:
        """Returns D_m - D_n B D_n, (M, M): each row sums to 0.

        n makes the blur nearly bistochastic, n ∘ B n ≈ S 1, by a few fixed-point steps; m = n ∘ B n then holds its row sums as
        they are, so that rows sum to 0 however many steps there were.
        """
        pixels, n = self.splat(np.ones(len(self.vertex))), np.ones(self.blur.shape[0])
        for _ in range(ROUNDS):
            n = np.sqrt(n * pixels / (self.blur @ n))
        scale = sparse.diags_array(n)
        return sparse.csr_array(sparse.diags_array(n * (self.blur @ n)) - scale @ self.blur @ scale)


def cells(pixels: Pixels, sigma_spatial: float, sigma_luma: float, sigma_chroma: float) -> NDArray[np.int64]:
    """Returns the cell of each pixel of uint8 (H, W, 3): int64 (5, H · W), row, column, luma and two chromas."""
    height, width = pixels.shape[:2]
    colours = YUV @ pixels.reshape(-1, 3).T.astype(np.int64) + YUV_OFFSET[:, None]
    widths = np.array([sigma_luma, sigma_chroma, sigma_chroma]) * MILLIONTHS
    rows, columns = np.divmod(np.arange(height * width), width)
    places = np.stack([rows, columns]) / sigma_spatial
    return np.floor(np.concatenate([places, colours / widths[:, None]])).astype(np.int64)


def grid_of(coordinates: NDArray[np.int64]) -> BilateralGrid:
    """Builds the grid from the cells of N pixels, int64 (dimensions, N).

    A vertex is a number, linear in its coordinates. One row of empty cells around all others keeps neighbours from wrapping.
    """
    lowest = coordinates.min(axis=1, keepdims=True) - 1
    extents = coordinates.max(axis=1) - lowest[:, 0] + 2
    if np.log2(extents.astype(np.float64)).sum() >= 62:
        raise OverflowError("the cells of the bilateral grid are too small for this image: take larger sigmas")
    strides = np.cumprod(np.append(1, extents[:-1]))
    vertices, vertex = np.unique(strides @ (coordinates - lowest), return_inverse=True)
    count, dimensions = len(vertices), len(strides)
    blur = sparse.csr_array(sparse.eye_array(count) * (2.0 * dimensions))
    for stride in strides:
        after = np.searchsorted(vertices, vertices + stride) % count
        lower = np.flatnonzero(vertices[after] == vertices + stride)
        one_way = sparse.csr_array((np.ones(len(lower)), (lower, after[lower])), shape=(count, count))
        blur = blur + one_way + one_way.T
    return BilateralGrid(vertex, sparse.csr_array(blur))
