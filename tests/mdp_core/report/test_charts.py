from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp_core.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, line_chart, nice_ticks, running_mean, short, thinned

finite = st.floats(-1e9, 1e9)


def coordinates(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]


@given(st.lists(finite, min_size=1, max_size=900))
def test_a_curve_stays_inside_its_chart(values: list[float]) -> None:
    chart = line_chart("loss", list(enumerate(values, 1)))
    assert chart is not None
    for x, y in coordinates(chart.raw) + coordinates(chart.smooth):
        assert LEFT - 0.06 <= x <= WIDTH - RIGHT + 0.06
        assert TOP - 0.06 <= y <= HEIGHT - BOTTOM + 0.06
    assert len(chart.y_ticks) >= 1 and len({t.text for t in chart.y_ticks}) >= 1


def test_the_ends_of_a_curve_are_the_ends_of_its_chart() -> None:
    chart = line_chart("loss", [(1, 4.0), (11, 0.0)])
    assert chart is not None
    assert coordinates(chart.raw) == [(LEFT, TOP), (WIDTH - RIGHT, HEIGHT - BOTTOM)]
    assert chart.last == "0"
    assert chart.summary == "loss from 4 to 0 over 11 iterations; lowest 0, highest 4"


def test_what_is_not_finite_is_left_out_and_said() -> None:
    chart = line_chart("loss", [(1, 1.0), (2, math.nan), (3, math.inf), (4, 2.0)])
    assert chart is not None
    assert len(coordinates(chart.raw)) == 2
    assert chart.summary.endswith("2 values were not finite")
    assert line_chart("loss", [(1, math.nan)]) is None
    assert line_chart("loss", []) is None


def test_only_noisy_curves_have_a_bold_line() -> None:
    noisy = line_chart("loss", [(i, float(i % 2)) for i in range(100)])
    schedule = line_chart("lr", [(i, float(i < 50)) for i in range(100)])
    assert noisy is not None and noisy.smooth
    assert schedule is not None and not schedule.smooth


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=200))
def test_running_mean_against_its_definition(values: list[float]) -> None:
    width = max(2, round(0.05 * len(values)))
    expected = [
        sum(values[max(0, i - width + 1) : i + 1]) / len(values[max(0, i - width + 1) : i + 1]) for i in range(len(values))
    ]
    found = running_mean([(float(i), v) for i, v in enumerate(values)])
    assert [y for _, y in found] == pytest.approx(expected, abs=1e-9)


@given(st.lists(finite, min_size=1, max_size=2000))
def test_a_thinned_curve_keeps_its_extremes_and_its_order(values: list[float]) -> None:
    points = [(float(i), v) for i, v in enumerate(values)]
    kept = thinned(points, 100)
    assert len(kept) <= 100
    assert kept == sorted(set(kept))
    assert min(v for _, v in kept) == min(values)
    assert max(v for _, v in kept) == max(values)


@given(finite, st.floats(1e-6, 1e9))
def test_ticks_are_round_and_inside(low: float, length: float) -> None:
    high = low + length
    if high - low < 1e-6 * max(1, abs(low)):
        return
    ticks = nice_ticks(low, high, 4)
    assert 1 <= len(ticks) <= 5
    slack = 1e-6 * max(abs(low), abs(high), 1)
    assert all(low - slack <= t <= high + slack for t in ticks)


def test_ticks_by_hand() -> None:
    assert nice_ticks(0, 1, 4) == [0, 0.5, 1]
    assert nice_ticks(1, 60, 4) == [20, 40, 60]
    assert nice_ticks(0.002, 0.02, 3) == [0.01, 0.02]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1200, "1,200"), (0.00025, "0.00025"), (2.5e-6, "2.5e-06"), (0, "0"), (0.54391, "0.5439"), (1234.5, "1,234")],
)
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text
