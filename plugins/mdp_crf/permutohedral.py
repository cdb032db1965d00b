"""The permutohedral lattice: Gaussian sums over many points in a few dimensions, in time linear in the points.

Adams, Baek and Davis, "Fast high-dimensional filtering using the permutohedral lattice" (Eurographics 2010). Points are spread on
the vertices of the simplex around them (splat), vertices are blurred along each lattice direction, and points read them back
(slice). Vertices are numbers here, not entries of a hash table: a vertex is one int64, linear in its coordinates, so that the
table is a sorted array and a neighbour is the vertex whose number differs by a constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Values = NDArray[np.float32]

BLOCK = 1 << 18
"""Points placed at a time, which bounds the memory beside the result."""


@dataclass(frozen=True, eq=False)
class Lattice:
    """A lattice with all vertices that its points touch.

    Attributes:
        points: CSR (N, M) float32, d + 1 barycentric weights a row: point → vertices.
        blurs: One CSR (M, M) float32 for each of the d + 1 directions: ½ for each neighbour that exists. They share their numbers.
    """

    points: sparse.csr_array
    blurs: tuple[sparse.csr_array, ...]

    def filter(self, values: Values) -> Values:
        """Sums values over all points, weighted by exp(-½ |f_i - f_j|²) up to one constant factor.

        Args:
            values: float32 (N, channels).

        Returns:
            float32 (N, channels).
        """
        vertices = self.points.T @ values
        for blur in self.blurs:
            blurred = blur @ vertices
            blurred += vertices
            vertices = blurred
        return cast("Values", self.points @ vertices)

    def normalise(self) -> None:
        """Makes the kernel K, in place, the symmetrically normalised D^-½ K D^-½, where D holds the row sums of K."""
        sums = self.filter(np.ones((self.points.shape[0], 1), np.float32))
        weights = self.points.data.reshape(len(sums), -1)
        weights *= 1 / np.sqrt(sums + np.float32(1e-20))


def lattice(features: Values) -> Lattice:
    """Builds the lattice of points.

    Args:
        features: float32 (d, N), in units of the kernel's standard deviation along each axis.

    Raises:
        OverflowError: The points spread over so many standard deviations that a vertex does not fit in 63 bits.
    """
    dimensions, count = features.shape
    elevation = _elevation(dimensions)
    lowest, strides = _numbering(features, elevation)
    corners = dimensions + 1
    indices = np.empty((count, corners), np.int32)
    weights = np.empty((count, corners), np.float32)
    tables: list[NDArray[np.int64]] = []
    blocks = [slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
    for block in blocks:
        numbers, weights[block] = _simplices(elevation @ features[:, block], lowest, strides)
        table, indices[block] = _unique(numbers)
        tables.append(table)
    vertices = tables[0] if len(tables) == 1 else np.unique(np.concatenate(tables))
    if len(tables) > 1:
        for block, table in zip(blocks, tables, strict=True):
            indices[block] = np.searchsorted(vertices, table).astype(np.int32)[indices[block]]
    ends = np.arange(0, count * corners + 1, corners, dtype=np.int32 if count * corners < 2**31 else np.int64)
    points = sparse.csr_array((weights.ravel(), indices.ravel(), ends), shape=(count, len(vertices)))
    steps = strides.sum() - corners * strides
    halves = np.full(2 * len(vertices), 0.5, np.float32)
    return Lattice(points, tuple(_neighbours(vertices, abs(int(step)), halves) for step in steps))


def _elevation(dimensions: int) -> Values:
    """Returns the map (d + 1, d) onto the plane of the lattice (§3.1, E), scaled so that the blur has a standard deviation of 1."""
    axis = np.arange(dimensions)
    scale = np.sqrt(2 / 3) * (dimensions + 1) / np.sqrt((axis + 1) * (axis + 2))
    above = np.triu(np.ones((dimensions + 1, dimensions)))
    above[axis + 1, axis] = -(axis + 1)
    return (above * scale).astype(np.float32)


def _numbering(features: Values, elevation: Values) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns how the vertices are numbered: the lowest coordinates, in units of d + 1, and the stride of each coordinate.

    Coordinates range over what the features reach and two cells more on each side, so that no neighbour wraps around. The last
    coordinate follows from the others: its stride is 0.
    """
    corners = len(elevation)
    ends = np.stack([features.min(1), features.max(1)]).astype(np.float64)
    reach = np.sort(elevation[None].astype(np.float64) * ends[:, None], axis=0).sum(2) / corners
    lowest = np.floor(reach[0, :-1]).astype(np.int64) - 3
    extents = (np.ceil(reach[1, :-1]).astype(np.int64) + 3 - lowest + 1) * corners
    if np.log2(extents.astype(np.float64)).sum() >= 62:
        raise OverflowError("the features spread over too many standard deviations")
    strides = np.append(np.cumprod(np.append(1, extents[:0:-1]))[::-1], 0)
    return lowest, strides.astype(np.int64)


def _simplices(
    elevated: Values, lowest: NDArray[np.int64], strides: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Finds the simplex around each point.

    Args:
        elevated: float32 (d + 1, n), points in the plane of the lattice.
        lowest: int64 (d,), see ``_numbering``.
        strides: int64 (d + 1,).

    Returns:
        The numbers of its d + 1 vertices, int64 (n, d + 1), and their barycentric weights, float32 (n, d + 1).
    """
    corners, count = elevated.shape
    last = corners - 1
    cells, rest, ranks = _nearest_zero(elevated)
    column = np.arange(count)
    by_rank, stride_by_rank = np.empty((corners, count), np.float32), np.empty((corners, count), np.int64)
    for axis in range(corners):
        by_rank[ranks[axis], column] = rest[axis]
        stride_by_rank[ranks[axis], column] = strides[axis]
    numbers, weights = np.empty((count, corners), np.int64), np.empty((count, corners), np.float32)
    number = corners * strides[:-1] @ (cells[:-1].astype(np.int64) - lowest[:, None])
    numbers[:, 0], weights[:, 0] = number, by_rank[last] + 1 - by_rank[0]
    for corner in range(1, corners):
        number = number + (strides.sum() - corners * stride_by_rank[corners - corner])
        numbers[:, corner] = number
        weights[:, corner] = by_rank[last - corner] - by_rank[corners - corner]
    return numbers, weights


def _nearest_zero(elevated: Values) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int8]]:
    """Finds the nearest remainder-0 vertex of each point (§3.1).

    Returns:
        Its coordinates in units of d + 1, int32; the rest of the point's coordinates in the same unit, float32; and the place of
        each coordinate when the rests are sorted from the largest (0) to the smallest (d), int8; all (d + 1, n).
    """
    corners = len(elevated)
    scaled = elevated / np.float32(corners)
    cells = np.rint(scaled)
    rest = scaled - cells
    off_plane = cells.sum(0).astype(np.int8)
    ranks = np.zeros(elevated.shape, np.int8)
    for one in range(corners):
        for other in range(one + 1, corners):
            less = rest[one] < rest[other]
            ranks[one] += less
            ranks[other] += ~less
    ranks += off_plane
    move = (ranks < 0).astype(np.int8) - (ranks >= corners)
    return (cells + move).astype(np.int32), rest - move, ranks + move * np.int8(corners)


def _unique(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Returns the sorted distinct numbers and the place of each number among them, int32 of the same shape."""
    flat = numbers.ravel()
    order = np.argsort(flat)
    ordered = flat[order]
    first = np.append(True, ordered[1:] != ordered[:-1])
    places = np.empty(len(flat), np.int32)
    places[order] = np.cumsum(first, dtype=np.int32) - 1
    return ordered[first], places.reshape(numbers.shape)


def _neighbours(vertices: NDArray[np.int64], step: int, halves: Values) -> sparse.csr_array:
    """Returns the neighbours along one direction, (M, M): ½ between vertices whose numbers are ``step`` apart.

    Args:
        vertices: int64 (M,), ascending.
        step: What is between neighbours' numbers.
        halves: float32 (2 M,), filled with ½.
    """
    count = len(vertices)
    wanted = vertices + step
    after = np.searchsorted(vertices, wanted).astype(np.int32)
    after[after == count] = 0
    has_after = vertices[after] == wanted
    lower, upper = np.flatnonzero(has_after), after[has_after]
    has_before = np.zeros(count, np.bool_)
    has_before[upper] = True
    ends = np.zeros(count + 1, np.int32)
    np.cumsum(has_before.astype(np.int8) + has_after, out=ends[1:])
    columns = np.empty(ends[-1], np.int32)
    columns[ends[upper]] = lower  # the neighbour before stands first in its row
    columns[ends[lower + 1] - 1] = upper
    return sparse.csr_array((halves[: len(columns)], columns, ends), shape=(count, count))
