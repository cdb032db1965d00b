"""Names and texts in the form that MLflow takes, without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

LONGEST_VALUE = 5000
"""Characters of a tag's or parameter's value; MLflow takes 5,000 for tags and 6,000 for parameters."""
LONGEST_NAME = 250

_USER_PART = re.compile(r"://[^\s/@'\"]+@")  # starts with what is rare: texts of megabytes pass through here


def redact(text: str) -> str:
    """Returns the text with the user part of every address (``https://user:password@host``) replaced by ``***``."""
    return _USER_PART.sub("://***@", text)


def flatten(value: Any, path: str = "") -> Iterable[tuple[str, str]]:
    """Yields (dotted name, text) of every setting of a resolved recipe."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from flatten(inner, f"{path}.{name}" if path else str(name))
    else:
        yield path, str(value)


def plain_name(name: str) -> str:
    """Returns the nearest name that MLflow takes: letters, digits and ``_-./ ``, and the form of a relative path."""
    plain = "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name)
    parts = [part if part.strip(".") else "_" * len(part) for part in plain.split("/") if part]
    return "/".join(parts)[:LONGEST_NAME].rstrip("/") or "_"


def tag_value(text: object) -> str:
    """Returns a tag's value: short enough, and without secrets."""
    return redact(str(text))[:LONGEST_VALUE]
