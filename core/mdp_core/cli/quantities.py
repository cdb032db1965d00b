"""Sizes, ages and durations as people write and read them."""

from __future__ import annotations

import re
import time

from mdp_core.errors import RecipeError

_SIZES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}
_AGES = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}


def parse_size(text: str, option: str) -> int:
    """Returns bytes for ``20GB``, ``500MB``, ``1.5GiB``.

    Raises:
        RecipeError: It is no size.
    """
    return int(_parse(text, option, _SIZES, "a size such as 20GB or 500MB"))


def parse_age(text: str, option: str) -> float:
    """Returns seconds for ``30d``, ``12h``, ``2w``, ``90min``.

    Raises:
        RecipeError: It is no age.
    """
    return _parse(text, option, _AGES, "an age such as 30d or 12h")


def _parse(text: str, option: str, units: dict[str, int], what: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if found is None or found[2].lower() not in units:
        unit = f" (no unit {found[2]!r})" if found and found[2] else " (the unit is missing)" if found else ""
        raise RecipeError(f"{option} {text}: not {what}{unit}", hint=f"units: {', '.join(_names(units))}")
    return float(found[1]) * units[found[2].lower()]


def _names(units: dict[str, int]) -> list[str]:
    special = {"b": "B", "kb": "kB", "kib": "KiB"}
    return [special.get(u, u if units is _AGES else u[0].upper() + u[1:].replace("b", "B")) for u in units]


def show_size(count: int) -> str:
    """Returns bytes in few digits: ``1.2 GB``."""
    size, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"


def show_duration(seconds: float) -> str:
    """Returns a duration in two units at most: ``40 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def show_age(moment: float, now: float | None = None) -> str:
    """Returns how long ago a time (seconds since 1970) was, in one unit: ``3 d``."""
    seconds = max(0.0, (time.time() if now is None else now) - moment)
    for unit in ("y", "w", "d", "h", "min"):
        if seconds >= 2 * _AGES[unit]:
            return f"{seconds / _AGES[unit]:.0f} {unit}"
    return f"{seconds:.0f} s"
