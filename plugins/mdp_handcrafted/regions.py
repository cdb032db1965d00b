"""Regions: which lie side by side, and how they merge.

A region adjacency graph holds for every region its area, its mean colour and its share of the image's border, and for every pair of
neighbours the pixel sides in common. Merging the cheapest pair again and again gives a tree whose nodes are regions: the leaves at
first, then one node a merge.

Colours and gradients are whole numbers (1/64 of a unit), so that sums are exact: what a region is does not depend on the order in
which its parts came together, and equal costs are equal.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2lab

from mdp_core.api import Bitmap, Pixels

Labels = NDArray[np.intp]
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Cost = Callable[["Growing", int, int], float]
"""What it costs to merge two neighbours a < b; a function of what is known of the two and of their common boundary."""

STEPS = 64
"""Whole numbers to a unit of Lab."""


@dataclass(frozen=True)
class RegionGraph:
    """The regions of an image and which of them touch.

    Attributes:
        labels: int (H, W), the region of each pixel, 0..n-1, none missing.
        areas: int64 (n,) in pixels.
        colours: int64 (n, 3), the sum of Lab over the pixels in steps of 1/64.
        squares: The sum over all pixels of the squared length of Lab, in (1/64)².
        borders: int64 (n,), pixel sides on the image's border; a corner pixel has two.
        pairs: int64 (m, 2), neighbours a < b, in ascending order. Neighbours have a pixel side in common.
        lengths: int64 (m,), pixel sides in common.
        strengths: int64 (m,), the sum over these sides of the gradient at both pixels, in steps of 1/64.
    """

    labels: Labels
    areas: Integers
    colours: Integers
    squares: int
    borders: Integers
    pairs: Integers
    lengths: Integers
    strengths: Integers


@dataclass
class Growing:
    """Regions while they merge; lists are indexed by node. Dead nodes have no neighbours.

    Attributes:
        areas: In pixels.
        colours: Sums of Lab (1/64).
        borders: Pixel sides on the image's border.
        neighbours: Node → {neighbour: (pixel sides in common, sum of the gradient there)}.
    """

    areas: list[int]
    colours: list[list[int]]
    borders: list[int]
    neighbours: list[dict[int, tuple[int, int]]]


@dataclass(frozen=True)
class MergeTree:
    """A hierarchy of regions. The first n nodes are the leaves, and node n + i came of merge i; the last is the whole image.

    Attributes:
        graph: The leaves.
        births: float64 (2n - 1,), the largest cost of the merges that made a node; 0 for a leaf.
        deaths: float64 (2n - 1,), the birth of the parent, never below a node's own; infinite for the whole image.
        areas: int64 (2n - 1,) in pixels.
        colours: float64 (2n - 1, 3), mean Lab.
        borders: int64 (2n - 1,), pixel sides on the image's border.
        siblings: int64 (2n - 1,), what each node merges with at its death; the whole image is its own.
        places: int64 (n,), where each leaf stands in an order in which every node's leaves stand side by side.
        spans: int64 (2n - 1, 2), the first place of a node's leaves, and the one after the last.
    """

    graph: RegionGraph
    births: Floats
    deaths: Floats
    areas: Integers
    colours: Floats
    borders: Integers
    siblings: Integers
    places: Integers
    spans: Integers

    def holds(self, node: int) -> Bitmap:
        """Returns which leaves a node holds, bool (n,)."""
        first, last = self.spans[node]
        return (self.places >= first) & (self.places < last)

    def mask(self, node: int) -> Bitmap:
        """Returns the pixels of a node, bool (H, W)."""
        return self.holds(node)[self.graph.labels]

    def nested(self, first: int, second: int) -> bool:
        """Says whether one of two nodes holds the other (two nodes that share a leaf do)."""
        (a, b), (c, d) = self.spans[first], self.spans[second]
        return bool(a < d and c < b)


def to_lab(pixels: Pixels) -> Integers:
    """Returns CIE Lab of uint8 sRGB (H, W, 3) as int64, in steps of 1/64."""
    return np.rint(rgb2lab(pixels) * STEPS).astype(np.int64)


def region_graph(labels: Labels, lab: Integers, gradient: Integers | None = None) -> RegionGraph:
    """Measures regions and their common boundaries.

    Args:
        labels: int (H, W), any numbers; regions are numbered anew in their order.
        lab: int64 (H, W, 3), see ``to_lab``.
        gradient: int64 (H, W) in steps of 1/64; zeros by default.
    """
    labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    count, flat = int(labels.max()) + 1, labels.ravel()
    colours = np.stack([np.bincount(flat, channel.ravel(), count) for channel in np.moveaxis(lab, 2, 0)], axis=1)
    frame = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    first, second = _beside(labels)
    apart = first != second
    low, high = np.minimum(first, second)[apart], np.maximum(first, second)[apart]
    codes, inverse = np.unique(low * count + high, return_inverse=True)
    slopes = np.zeros((2, len(apart))) if gradient is None else np.stack(_beside(gradient))
    return RegionGraph(
        labels=labels,
        areas=np.bincount(flat, minlength=count),
        colours=colours.astype(np.int64),
        squares=int(np.vdot(lab, lab)),
        borders=np.bincount(frame, minlength=count),
        pairs=np.stack([codes // count, codes % count], axis=1),
        lengths=np.bincount(inverse, minlength=len(codes)),
        strengths=np.bincount(inverse, slopes.sum(axis=0)[apart], len(codes)).astype(np.int64),
    )


def _beside(values: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Returns the values on both sides of every pixel side inside the image."""
    left, right, above, below = values[:, :-1], values[:, 1:], values[:-1], values[1:]
    return np.concatenate([left.ravel(), above.ravel()]), np.concatenate([right.ravel(), below.ravel()])


def merge(graph: RegionGraph, cost: Cost) -> MergeTree:
    """Merges the cheapest pair of neighbours until one region is left; of equal costs the pair of lower (a, b) goes first.

    A merge makes a new node, so the cost of a pair never changes while both live, and entries of the heap are never stale.
    """
    growing = Growing(graph.areas.tolist(), graph.colours.tolist(), graph.borders.tolist(), [{} for _ in graph.areas])
    for (a, b), *edge in zip(graph.pairs.tolist(), graph.lengths.tolist(), graph.strengths.tolist(), strict=True):
        growing.neighbours[a][b] = growing.neighbours[b][a] = (edge[0], edge[1])
    heap = [(cost(growing, a, b), a, b) for a, b in graph.pairs.tolist()]
    heapq.heapify(heap)
    children: list[tuple[int, int]] = []
    births = [0.0] * len(graph.areas)
    while heap:
        price, a, b = heapq.heappop(heap)
        if b in growing.neighbours[a]:
            births.append(max(price, births[a], births[b]))
            children.append((a, b))
            node = _join(growing, a, b)
            for other in growing.neighbours[node]:
                heapq.heappush(heap, (cost(growing, other, node), other, node))
    return _tree(graph, growing, children, births)


def _join(growing: Growing, a: int, b: int) -> int:
    """Makes the node of two neighbours, and returns it."""
    node, around = len(growing.areas), growing.neighbours
    growing.areas.append(growing.areas[a] + growing.areas[b])
    growing.borders.append(growing.borders[a] + growing.borders[b])
    growing.colours.append([x + y for x, y in zip(growing.colours[a], growing.colours[b], strict=True)])
    joined: dict[int, tuple[int, int]] = {}
    for part, sibling in ((a, b), (b, a)):
        for other, (length, strength) in around[part].items():
            if other != sibling:
                before = joined.get(other, (0, 0))
                joined[other] = (before[0] + length, before[1] + strength)
                del around[other][part]
        around[part] = {}
    for other, edge in joined.items():
        around[other][node] = edge
    around.append(joined)
    return node


def _tree(graph: RegionGraph, growing: Growing, children: list[tuple[int, int]], births: list[float]) -> MergeTree:
    leaves, areas = len(graph.areas), np.array(growing.areas, np.int64)
    deaths, siblings, widths = [np.inf] * len(births), list(range(len(births))), [1] * leaves
    for node, (a, b) in enumerate(children, start=leaves):
        deaths[a] = deaths[b] = births[node]
        siblings[a], siblings[b] = b, a
        widths.append(widths[a] + widths[b])
    starts = [0] * len(births)
    for node, (a, b) in reversed(list(enumerate(children, start=leaves))):
        starts[a], starts[b] = starts[node], starts[node] + widths[a]
    spans = np.stack([starts, np.add(starts, widths)], axis=1)
    return MergeTree(
        graph=graph,
        births=np.array(births),
        deaths=np.array(deaths),
        areas=areas,
        colours=np.array(growing.colours, np.int64) / (areas[:, None] * STEPS),
        borders=np.array(growing.borders, np.int64),
        siblings=np.array(siblings, np.int64),
        places=spans[:leaves, 0],
        spans=spans,
    )
