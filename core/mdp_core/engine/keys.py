"""Keys: the content address of a step's result."""

from __future__ import annotations

import hashlib
import json
from typing import Any

FORMAT = 1
"""Version of the store; a store of another version is never hit."""


def canonical(value: Any) -> str:
    """Returns JSON that is the same for equal values: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """Returns the sha256 of a JSON-ready value, as 32 hexadecimal digits (128 bits)."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:32]
