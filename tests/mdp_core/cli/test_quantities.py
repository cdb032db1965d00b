from __future__ import annotations

import pytest

from mdp_core.cli.quantities import parse_age, parse_size, show_age, show_duration, show_size
from mdp_core.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("10GB", 10**10), ("500MB", 5 * 10**8), ("1.5kb", 1500), ("2 GiB", 2 << 30), ("0B", 0), ("7b", 7), ("1TiB", 1 << 40)],
)
def test_sizes(text: str, wanted: int) -> None:
    assert parse_size(text, "--max-size") == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("30d", 30 * 86400), ("12h", 43200), ("90min", 5400), ("2w", 14 * 86400), ("0.5d", 43200), ("1Y", 365 * 86400)],
)
def test_ages(text: str, wanted: float) -> None:
    assert parse_age(text, "--older-than") == wanted


@pytest.mark.parametrize("text", ["", "GB", "-3GB", "3XB", "ten GB", "1e9B", "30d"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(RecipeError, match="not a size such as 20GB") as caught:
        parse_size(text, "--max-size")
    assert caught.value.message.startswith(f"--max-size {text}")
    assert "kB, MB, GB, TB" in str(caught.value.hint)


def test_a_missing_unit_is_said() -> None:
    with pytest.raises(RecipeError, match=r"--older-than 30: not an age such as 30d or 12h \(the unit is missing\)"):
        parse_age("30", "--older-than")
    with pytest.raises(RecipeError, match=r"no unit 'months'"):
        parse_age("3 months", "--older-than")


@pytest.mark.parametrize(
    ("count", "wanted"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (86_662_656, "86.7 MB"), (999_600, "1.0 MB"), (5 * 10**15, "5000 TB")],
)
def test_sizes_shown(count: int, wanted: str) -> None:
    assert show_size(count) == wanted


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (42, "42 s"), (120, "2 min"), (7260, "2 h 1 min"), (187_200, "2 d 4 h")],
)
def test_durations_shown(seconds: float, wanted: str) -> None:
    assert show_duration(seconds) == wanted


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [(5, "5 s"), (-3, "0 s"), (300, "5 min"), (3 * 86400, "3 d"), (21 * 86400, "3 w"), (800 * 86400, "2 y")],
)
def test_ages_shown(seconds: float, wanted: str) -> None:
    assert show_age(1e9 - seconds, 1e9) == wanted
