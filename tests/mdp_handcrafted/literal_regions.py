"""Trees of regions as sets of pixels, everything counted anew with plain loops and exact fractions. Slow."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from mdp_core.api import ImageRecord, Images

Pixel = tuple[int, int]
Region = frozenset[Pixel]


@dataclass
class Scene:
    """An image as dictionaries: pixel → Lab in whole steps, pixel → gradient."""

    height: int
    width: int
    lab: dict[Pixel, tuple[int, int, int]]
    gradient: dict[Pixel, int]

    @classmethod
    def of(cls, lab: np.ndarray, gradient: np.ndarray | None = None) -> "Scene":
        height, width = lab.shape[:2]
        pixels = [(y, x) for y in range(height) for x in range(width)]
        gradient = np.zeros((height, width), int) if gradient is None else gradient
        return cls(height, width, {p: tuple(map(int, lab[p])) for p in pixels}, {p: int(gradient[p]) for p in pixels})

    @property
    def pixels(self) -> Region:
        return frozenset(self.lab)

    def sides(self, region: Region) -> list[tuple[Pixel, Pixel]]:
        """Returns (pixel inside, pixel outside) for every pixel side between the region and the rest."""
        return [(p, q) for p in sorted(region) for q in around(p) if q in self.lab and q not in region]

    def border(self, region: Region) -> int:
        """Returns how many pixel sides lie on the image's border."""
        return sum(q not in self.lab for p in region for q in around(p))

    def mean(self, region: Region) -> list[Fraction]:
        """Returns mean Lab."""
        return [Fraction(sum(self.lab[p][c] for p in region), 64 * len(region)) for c in range(3)]

    def error(self, region: Region) -> Fraction:
        """Returns the sum of the squared distances from the mean, in Lab: Σ x² - (Σ x)² / n."""
        columns = [[self.lab[p][c] for p in region] for c in range(3)]
        return sum(sum(x * x for x in xs) - Fraction(sum(xs) ** 2, len(xs)) for xs in columns) / 4096


def around(pixel: Pixel) -> list[Pixel]:
    y, x = pixel
    return [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]


def ward(scene: Scene, a: Region, b: Region) -> Fraction:
    """What the squared error grows by: by the parallel axis theorem, the squared distances of both means from the joint one."""
    joint = scene.mean(a | b)
    return sum(len(r) * sum((m - j) ** 2 for m, j in zip(scene.mean(r), joint, strict=True)) for r in (a, b))


def boundary(power: float) -> Callable[[Scene, Region, Region], float]:
    def cost(scene: Scene, a: Region, b: Region) -> float:
        small, large = sorted((a, b), key=len)
        touching = [(p, q) for p, q in scene.sides(small) if q in large]
        mean = Fraction(sum(scene.gradient[p] + scene.gradient[q] for p, q in touching), 128 * len(touching))
        return float(mean) * float(Fraction(len(small), len(scene.lab))) ** power

    return cost


@dataclass
class Tree:
    """Nodes in order of birth; ``gap``: how near the nearest decision was to a tie, relative to the cost."""

    nodes: list[Region]
    births: list[float]
    deaths: list[float]
    siblings: list[int]
    leaves: int
    gap: float


def grow(scene: Scene, labels: np.ndarray, cost: Callable[[Scene, Region, Region], Fraction | float]) -> Tree:
    """Merges the two neighbours of least cost, looking at all pairs each time."""
    nodes = [frozenset(p for p in scene.lab if labels[p] == label) for label in sorted(set(labels.ravel().tolist()))]
    tree = Tree(nodes, [0.0] * len(nodes), [np.inf] * len(nodes), list(range(len(nodes))), len(nodes), np.inf)
    alive, touching = list(range(len(nodes))), {}
    for a in alive:
        for b in alive[a + 1 :]:
            if any(q in nodes[b] for _, q in scene.sides(nodes[a])):
                touching[a, b] = cost(scene, nodes[a], nodes[b])
    while touching:
        (a, b), price = min(touching.items(), key=lambda item: (item[1], item[0]))
        others = [float(abs(other - price) / price) for pair, other in touching.items() if pair != (a, b) and price > 0]
        tree.gap = min([tree.gap, *others])
        node, alive = len(nodes), [c for c in alive if c not in (a, b)]
        nodes.append(nodes[a] | nodes[b])
        tree.births.append(max(float(price), tree.births[a], tree.births[b]))
        tree.deaths[a] = tree.deaths[b] = tree.births[node]
        tree.siblings[a], tree.siblings[b] = b, a
        tree.deaths.append(np.inf)
        tree.siblings.append(node)
        touched = [c for c in alive if any(tuple(sorted((c, old))) in touching for old in (a, b))]
        touching = {pair: price for pair, price in touching.items() if a not in pair and b not in pair}
        touching |= {(c, node): cost(scene, nodes[c], nodes[node]) for c in touched}
        alive.append(node)
    return tree


def filled(scene: Scene, region: Region) -> Region:
    """Adds what no walk from outside the image reaches."""
    reached: set[Pixel] = set()
    pending = [p for p in scene.lab if p not in region and any(q not in scene.lab for q in around(p))]
    while pending:
        p = pending.pop()
        if p not in reached:
            reached.add(p)
            pending += [q for q in around(p) if q in scene.lab and q not in region]
    return frozenset(p for p in scene.lab if p not in reached)


def choose(scene: Scene, nodes: list[Region], scores: list[float], config) -> list[tuple[Region, int]]:
    """Takes the best nodes one by one."""
    found: list[tuple[Region, int]] = []
    for node in sorted(range(len(nodes)), key=lambda node: (-np.float32(scores[node]), -node)):
        if np.float32(scores[node]) <= 0 or np.float32(scores[node]) < np.float32(config.min_score):
            continue
        region = nodes[node]
        if config.fill_holes and len(filled(scene, region)) <= config.max_area * len(scene.lab):
            region = filled(scene, region)
        if all(len(region & other) / len(region | other) <= config.max_iou for other, _ in found):
            found.append((region, node))
    return found[: config.masks]


def object_sized(scene: Scene, tree: Tree, node: int, config) -> bool:
    share = len(tree.nodes[node]) / len(scene.lab)
    return config.min_area <= share <= config.max_area and node != len(tree.nodes) - 1


def bitmap(scene: Scene, region: Region, size: tuple[int, int]) -> np.ndarray:
    """Looks up each pixel of an image of ``size`` in the region."""
    out = np.zeros(size, bool)
    for y in range(size[0]):
        for x in range(size[1]):
            out[y, x] = (int((y + 0.5) * scene.height / size[0]), int((x + 0.5) * scene.width / size[1])) in region
    return out


def images_of(arrays: list[np.ndarray]) -> Images:
    records = [ImageRecord(str(i), *array.shape[:2]) for i, array in enumerate(arrays)]
    return Images(records, lambda record: arrays[int(record.id)])


ODD = {
    "one pixel": (1, 1),
    "two pixels": (1, 2),
    "a row": (1, 50),
    "a column": (50, 1),
    "a long row": (1, 5000),
    "a long strip": (3000, 3),
    "four pixels": (2, 2),
    "small": (17, 16),
    "large": (900, 1200),
}
"""Sizes of images that trip programs up."""
