"""Normalised cuts of a graph of patches: what TokenCut, MaskCut and Deep Spectral Methods share.

Shi and Malik, "Normalized Cuts and Image Segmentation" (TPAMI 2000): the best cut of a graph W with degrees D is relaxed to the
second smallest eigenvector of (D - W) v = λ D v. With u = D^½ v that is the second largest eigenvector of the symmetric
S = D^-½ W D^-½, of which the largest is known: D^½ 1, for λ = 0. Lanczos' method (ARPACK) finds the next ones from a few dozen products
with W, where a dense solver reduces the whole matrix.

All is done in float64. The matrix is symmetric, and its products read one half of it, so that this costs as much as float32
would with all of it, and a small eigengap (1e-4 where patches are like no other) is still far above the rounding.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, eigh
from scipy.linalg.blas import dsymv
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor

from mdp_core.api import StageError
from mdp_dino.pixels import Size

Affinity = NDArray[np.float32] | NDArray[np.float64]
Vector = NDArray[np.float64]

DENSE = 100
"""Graphs of fewer patches are solved densely: that is faster, and Lanczos needs more patches than basis vectors."""
TOLERANCE = 1e-8
"""Largest residual ‖S u - (1 - λ) u‖ of an eigenvector, ‖u‖ = 1, and the least distance of two eigenvalues that are not equal."""
BLOCK = 256
"""Rows of a graph that are compared with all others at a time."""
PRODUCTS = 3000
"""Lanczos gives up after about so many products with W; a hundred are rarely needed."""
_SEEDED: dict[str, Any] = {"rng": 0} if "rng" in inspect.signature(eigsh).parameters else {}


def smallest_eigenvectors(affinity: Affinity, count: int) -> tuple[Vector, Vector]:
    """Returns the smallest solutions of (D - W) v = λ D v, D being the diagonal matrix of W's row sums.

    Args:
        affinity: W, float32 or float64 (N, N): symmetric, not negative, every row sum positive. Only one triangle is read, except
            for the row sums.
        count: How many, 1 to N; the constant vector, for λ = 0, is always the first.

    Returns:
        λ ascending, float64 (count,), in [0, 2]; v as columns, float64 (N, count), with v_iᵀ D v_j = 1 for i = j and 0 otherwise. In
        each the entry of largest magnitude is positive (of equal ones the first).

    Raises:
        ValueError: W is not square, a row sum is not positive and finite, or count is not in 1..N.
        StageError: Neither Lanczos nor the dense solver converges.
    """
    patches = len(affinity)
    degrees = affinity.sum(axis=1, dtype=np.float64)
    if affinity.shape != (patches, patches) or not 1 <= count <= patches:
        raise ValueError(f"{count} eigenvectors of a matrix of shape {affinity.shape}")
    if not (np.isfinite(degrees).all() and (degrees > 0).all()):
        raise ValueError("row sums of the affinity must be positive and finite")
    scale, first = 1 / np.sqrt(degrees), np.sqrt(degrees / degrees.sum())
    others = None
    if count > 1 and patches >= max(DENSE, 4 * count):
        others = _lanczos(np.asarray(affinity, np.float64), scale, first, count - 1)
    if others is None:
        others = _dense(affinity, scale, first, count - 1)
    values, vectors = others
    vectors = np.column_stack([first, vectors]) * scale[:, None]
    signs = np.sign([column[peak(column)] for column in vectors.T])
    return np.concatenate([[0.0], np.clip(1 - values, 0, 2)]), vectors * signs


def peak(vector: Vector) -> int:
    """Returns the index of the entry of largest magnitude; of those that are equal but for rounding, the first."""
    return first_of(np.abs(vector))


def first_of(values: Vector) -> int:
    """Returns the index of the largest entry; of those that are equal but for rounding, the first."""
    return int(np.argmax(values >= values.max() - 1e-9 * np.abs(values).max()))


def _lanczos(affinity: NDArray[np.float64], scale: Vector, first: Vector, count: int) -> tuple[Vector, Vector] | None:
    """Returns the largest eigenvalues of S, descending, and eigenvectors, without ``first``; None where they cannot be trusted.

    ``first`` is moved to the other end of the spectrum, eigenvalue 1 to -1. A start vector sees one direction of a repeated
    eigenvalue, and Lanczos may miss the others: a second, rough search in what is left must find nothing larger.
    """
    patches, triangle = len(affinity), affinity.T  # the transpose is in the order that BLAS wants, and is the same matrix

    def product(vector: Vector) -> Vector:
        vector = vector.ravel()
        return scale * dsymv(1.0, triangle, scale * vector) - 2 * first * (first @ vector)

    def left(vector: Vector) -> Vector:
        vector = vector.ravel()
        return product(vector) - vectors @ ((values + 1) * (vectors.T @ vector))

    def search(operator: Any, wanted: int, tolerance: float, start: Vector, basis: int) -> tuple[Vector, Vector]:
        size = min(patches, max(2 * wanted + 1, basis))
        linear, restarts = LinearOperator((patches, patches), matvec=operator, dtype=np.float64), max(1, PRODUCTS // size)
        return eigsh(linear, wanted, which="LA", v0=start, ncv=size, maxiter=restarts, tol=tolerance, **_SEEDED)

    starts = np.random.default_rng(0).standard_normal((2, patches))
    try:
        values, vectors = search(product, count, 0.0, starts[0], 26)
        order = np.argsort(-values, kind="stable")
        values, vectors = values[order], vectors[:, order]
        residuals = [np.linalg.norm(product(u) - value * u) for value, u in zip(values, vectors.T, strict=True)]
        missed, _ = search(left, 1, 1e-3, starts[1], 8)
    except ArpackError:
        return None
    trusted = max(residuals) <= TOLERANCE and missed[0] <= values[-1] + TOLERANCE
    return (values, vectors) if trusted else None


def _dense(affinity: Affinity, scale: Vector, first: Vector, count: int) -> tuple[Vector, Vector]:
    """Returns the same as ``_lanczos`` from a full reduction of S.

    All eigenvalues are computed, by divide and conquer: LAPACK's search for some of them may return too few where many are equal.
    """
    patches = len(affinity)
    if not count:
        return np.zeros(0), np.zeros((patches, 0))
    normalised = affinity * scale[:, None] * scale - 2 * np.outer(first, first)
    try:
        values, vectors = eigh(normalised, driver="evd", overwrite_a=True)
    except LinAlgError as error:
        raise StageError(
            f"the eigenvectors of a graph of {patches} patches cannot be found ({error})",
            hint="look at the image; a larger tau or another facet gives another graph",
        ) from error
    return values[::-1][:count], vectors[:, ::-1][:, :count]


@dataclass(frozen=True)
class Cut:
    """A graph, cut in two.

    Attributes:
        vector: float64 (N,), the second smallest eigenvector; its entry of largest magnitude is positive.
        values: The second and third smallest eigenvalue.
        foreground: bool (N,), where the vector is above its mean; that is the side of its peak.
    """

    vector: Vector
    values: tuple[float, float]
    foreground: NDArray[np.bool_]


def unit(features: Tensor, *, centred: bool = False) -> NDArray[np.float32]:
    """Returns features, float (N, d), with length 1 as float32; those without a direction are zero.

    Args:
        features: As the network gave them.
        centred: Take their mean away first. What is left of equal ones is rounding, and has no direction: less than a millionth.
    """
    rows = features.double().cpu().numpy()
    least = 1e-6 * float(np.linalg.norm(rows, axis=1).max(initial=0))
    if centred:
        rows = rows - rows.mean(axis=0)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > least).astype(np.float32)


def threshold_graph(features: NDArray[np.float32], tau: float, eps: float) -> NDArray[np.float64]:
    """Returns W, float64 (N, N): 1 where two patches are alike, and eps elsewhere, so that no part stands alone.

    Args:
        features: float32 (N, d), of length 1 or 0.
        tau: Patches are alike where their cosine is above it.
        eps: Positive.
    """
    patches = len(features)
    graph = np.empty((patches, patches))
    for start in range(0, patches, BLOCK):  # a triangle, block by block: fresh memory costs more than all else
        rows = slice(start, start + BLOCK)
        alike = features[rows] @ features[start:].T > tau
        graph[rows, start:] = alike
        graph[start:, rows] = alike.T
    return np.maximum(graph, eps, out=graph)


def bipartition(affinity: Affinity) -> Cut | None:
    """Cuts a graph in two at the mean of its second smallest eigenvector.

    Args:
        affinity: float (N, N), as for ``smallest_eigenvectors``.

    Returns:
        The cut; None where there is none: fewer than three patches, or a second eigenvalue that is also the third, where any mixture of
        their vectors would do (all patches alike, or none like another).
    """
    if len(affinity) < 3:
        return None
    values, vectors = smallest_eigenvectors(affinity, 3)
    if values[2] - values[1] <= TOLERANCE:
        return None
    vector = vectors[:, 1]
    return Cut(vector, (float(values[1]), float(values[2])), vector > vector.mean())


def cohesion(affinity: Affinity, mask: NDArray[np.bool_]) -> float:
    """Returns 1 - Ncut, what the cut round a mask is worth, and 0 where it is worth nothing.

    Ncut = cut / vol(mask) + cut / vol(rest): the share of the mask's links that lead out of it, and of the rest's that lead into it. That
    is what the eigenvector approximates, measured on the mask that is kept in the end. A mask drawn at random has Ncut 1,
    so that 0 is chance, and 1 a part without any link to the rest. The eigenvalues say less: they promise a good cut also where its
    parts are scattered over the image. A patch's link with itself does not count: it would make a good cut of any single patch.

    Args:
        affinity: float (N, N), as for ``smallest_eigenvectors``.
        mask: bool (N,).

    Returns:
        In [0, 1]; 0 where the mask is empty or everything.
    """
    inside = mask.astype(affinity.dtype)
    itself = affinity.diagonal()
    degrees = affinity.sum(axis=1, dtype=np.float64) - itself
    links = affinity @ inside - itself * inside
    cut, volumes = float(links[~mask].sum()), (float(degrees[mask].sum()), float(degrees[~mask].sum()))
    return float(np.clip(1 - cut / volumes[0] - cut / volumes[1], 0, 1)) if min(volumes) > 0 else 0.0


def at_most(size: Size, patch: int, patches: int) -> Size:
    """Returns (height, width), or what it shrinks to so that no more than ``patches`` patches cover it: a graph has all their pairs."""
    height, width = size
    while (there := -(-height // patch) * -(-width // patch)) > patches:
        factor = (patches / there) ** 0.5
        height, width = max(1, int(height * factor)), max(1, int(width * factor))
    return height, width
