from __future__ import annotations

import numpy as np
import pytest

from mdp_datasets import outlines

STAR = [(r * np.sin(k * np.pi / 5), -r * np.cos(k * np.pi / 5)) for k in range(10) for r in [1.0 if k % 2 == 0 else 0.5]]
POLYGONS = {
    "triangle": [(0.0, -1.0), (np.sqrt(3) / 2, 0.5), (-np.sqrt(3) / 2, 0.5)],
    "rectangle": [(-1, -0.65), (1, -0.65), (1, 0.65), (-1, 0.65)],
    "star": STAR,
    "cross": [(-0.35, -1), (0.35, -1), (0.35, -0.35), (1, -0.35), (1, 0.35), (0.35, 0.35), (0.35, 1), (-0.35, 1),
              (-0.35, 0.35), (-1, 0.35), (-1, -0.35), (-0.35, -0.35)],
}  # fmt: skip


def literal_distance(corners: list[tuple[float, float]], x: float, y: float) -> tuple[float, bool]:
    """Signed distance to a polygon, and whether the nearest boundary point is well away from all corners."""
    inside, nearest, straight = False, np.inf, False
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if (ay > y) != (by > y) and x < ax + (y - ay) / (by - ay) * (bx - ax):
            inside = not inside
        along = ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2)
        t = min(max(along, 0.0), 1.0)
        distance = np.hypot(x - ax - t * (bx - ax), y - ay - t * (by - ay))
        if distance < nearest:
            nearest, straight = distance, 0.15 < t < 0.85
    return (-nearest if inside else nearest), straight


@pytest.mark.parametrize("name", sorted(POLYGONS))
def test_distance_to_polygons(name: str) -> None:
    x, y = np.random.default_rng(0).uniform(-1.4, 1.4, (2, 1500)).astype(np.float32)
    measured = getattr(outlines, name)(x, y)
    assert measured.dtype == np.float32
    literal = [literal_distance(POLYGONS[name], float(a), float(b)) for a, b in zip(x, y, strict=True)]
    exact = np.array([distance for distance, _ in literal])
    near_edge = np.array([straight for _, straight in literal]) & (np.abs(exact) < 0.08)
    clear = np.abs(exact) > 1e-5
    np.testing.assert_array_equal(np.sign(measured[clear]), np.sign(exact[clear]))
    assert near_edge.sum() > 50
    np.testing.assert_allclose(measured[near_edge], exact[near_edge], atol=1e-5)
    assert (np.abs(measured) <= np.abs(exact) + 1e-5).all()


def test_distance_to_disc() -> None:
    x, y = np.random.default_rng(0).uniform(-1.4, 1.4, (2, 200)).astype(np.float32)
    np.testing.assert_allclose(
        outlines.disc(x, y), [np.sqrt(float(a) ** 2 + float(b) ** 2) - 0.9 for a, b in zip(x, y, strict=True)], atol=1e-6
    )
