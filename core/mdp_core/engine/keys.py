"""Keys: the content address of a step's result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

FORMAT = 1
"""Version of the store; a store of another version is never hit."""


def canonical(value: Any) -> str:
    """Returns JSON that is the same for equal values: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """Returns the sha256 of a JSON-ready value, as 32 hexadecimal digits (128 bits)."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:32]


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Returns how two payloads differ, one ``path: theirs → ours`` a line; what a person needs to know of a miss."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        found: list[str] = []
        for name in sorted({*ours, *theirs}):
            inner = f"{path}.{name}" if path else str(name)
            found += differences(ours.get(name), theirs.get(name), inner)
        return found
    return [] if ours == theirs else [f"{path}: {_short(theirs)} → {_short(ours)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "…"
