"""Curves as small line charts: from points to the paths and ticks of an inline SVG, which the page's template draws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 300.0, 150.0
"""The chart's own units; the page scales it to the width that there is."""
LEFT, RIGHT, TOP, BOTTOM = 42.0, 8.0, 8.0, 20.0
MOST_POINTS = 400
"""A longer curve is thinned: of each stretch, its lowest and its highest point are drawn."""
SMOOTHED = 0.05
"""The bold line is the mean of this share of the curve, up to each point."""
SMOOTH_FROM = 30
"""Curves of fewer points have no bold line."""
NOISY = 4.0
"""Nor have those whose ups and downs add up to less than this many times the height of the curve, such as a learning rate."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where (in the chart's units), and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """One metric of a training, ready to draw.

    Attributes:
        name: The metric.
        raw: SVG path of the points.
        smooth: SVG path of their running mean; empty where there are few.
        last: The curve's last value, as text.
        summary: The curve in words, for those who cannot see it.
    """

    name: str
    raw: str
    smooth: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    last: str
    summary: str


def line_chart(name: str, points: Sequence[Point], unit: str = "iterations") -> Chart | None:
    """Draws a metric over the progress of its training.

    Args:
        name: The metric.
        points: (iteration, value), in order; values that are not finite are left out.
        unit: What the first number counts.

    Returns:
        The chart; None where no point is finite.
    """
    finite = [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not finite:
        return None
    xs, ys = [x for x, _ in finite], [y for _, y in finite]
    x_range, y_range = _widened(min(xs), max(xs)), _widened(min(ys), max(ys))

    def place(point: Point) -> Point:
        x = LEFT + (point[0] - x_range[0]) / (x_range[1] - x_range[0]) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (point[1] - y_range[0]) / (y_range[1] - y_range[0]) * (HEIGHT - TOP - BOTTOM)
        return x, y

    lost = len(points) - len(finite)
    summary = f"{name} from {short(ys[0])} to {short(ys[-1])} over {short(xs[-1])} {unit}; lowest {short(min(ys))}, highest {short(max(ys))}"
    return Chart(
        name=name,
        raw=_path([place(p) for p in thinned(finite, MOST_POINTS)]),
        smooth=_path([place(p) for p in thinned(running_mean(finite), MOST_POINTS)]) if _noisy(ys) else "",
        x_ticks=tuple(Tick(round(place((x, ys[0]))[0], 1), short(x)) for x in nice_ticks(*x_range, 4)),
        y_ticks=tuple(Tick(round(place((xs[0], y))[1], 1), short(y)) for y in nice_ticks(*y_range, 4)),
        last=short(ys[-1]),
        summary=summary + (f"; {lost} values were not finite" if lost else ""),
    )


def nice_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Returns round numbers (1, 2 or 5 times a power of ten apart) from ``low`` to ``high``, about ``wanted`` of them."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def running_mean(points: Sequence[Point]) -> list[Point]:
    """Returns at each point the mean of it and those before it, over ``SMOOTHED`` of the curve."""
    width = max(2, round(SMOOTHED * len(points)))
    found, total = [], 0.0
    for index, (x, y) in enumerate(points):
        total += y - (points[index - width][1] if index >= width else 0.0)
        found.append((x, total / min(index + 1, width)))
    return found


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """Returns at most ``most`` of the points: all, or the lowest and the highest of each of ``most / 2`` stretches."""
    if len(points) <= most:
        return list(points)
    kept: list[Point] = []
    stretches = most // 2
    for i in range(stretches):
        stretch = range(i * len(points) // stretches, (i + 1) * len(points) // stretches)
        ends = {min(stretch, key=lambda j: points[j][1]), max(stretch, key=lambda j: points[j][1])}
        kept += [points[j] for j in sorted(ends)]
    return kept


def short(value: float) -> str:
    """Returns a number in few letters: ``1,200``, ``0.0015``, ``2.5e-06``."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.2g}"
    if value == round(value):
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _noisy(values: Sequence[float]) -> bool:
    ups_and_downs = sum(abs(b - a) for a, b in itertools.pairwise(values))
    return len(values) >= SMOOTH_FROM and ups_and_downs > NOISY * (max(values) - min(values))


def _widened(low: float, high: float) -> tuple[float, float]:
    """Returns a range that has a length."""
    if high - low > 1e-12 * max(abs(low), abs(high)):
        return low, high
    half = abs(low) / 2 or 0.5
    return low - half, high + half


def _path(points: Sequence[Point]) -> str:
    if len(points) == 1:  # a line of no length with round ends is a dot
        points = [points[0], points[0]]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
