"""Finding folders and splits, and saying what is there when they are not."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from mdp_core.api import DataError


def existing_folder(root: Path) -> Path:
    """Returns ``root`` with ``~`` expanded.

    Raises:
        DataError: It does not exist or is not a folder.
    """
    folder = root.expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise DataError(f"{folder}: is a file, not a folder", hint=f"set data.root to a folder, for example {folder.parent}")
    start = "" if folder.is_absolute() else f" (looked for in {Path.cwd()})"
    raise DataError(f"{folder}: no such folder{start}", hint="set data.root to the folder that holds the images")


def unknown_split(split: str, existing: Sequence[str], where: str, *, hint: str = "") -> DataError:
    """Builds the error for a split that does not exist.

    Args:
        split: What was asked for.
        existing: The splits there are.
        where: Where they were looked for.
        hint: What else to do about it.
    """
    close = difflib.get_close_matches(split, existing, n=1) if len(existing) > 1 else []
    guess = f", did you mean '{close[0]}'?" if close else ""
    there = f"splits there: {', '.join(existing)}" if existing else "there are no splits at all"
    return DataError(f"{where}: no split '{split}'{guess}", hint=f"{there}; {hint}" if hint else there)


def listed(names: Sequence[str], most: int = 8) -> str:
    """Returns names for a message, the first few of them where there are many."""
    shown = ", ".join(names[:most])
    return f"{shown}, … ({len(names)} in all)" if len(names) > most else shown or "nothing"
