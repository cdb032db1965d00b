"""Lists of images that come with the package, and reading them and people's own."""

from __future__ import annotations

import difflib
import gzip
from importlib.resources import files
from pathlib import Path

from mdp_core.api import DataError

SHIPPED = {
    "coco20k": "19,817 images of COCO train2014 (Vo et al., 2020), as LOST and MaskDistill use them",
    "voc2012-trainaug": "10,582 images of VOC2012: those of train, and those of SBD that are not in val",
}
"""Name → what it is."""


def shipped(name: str) -> list[str]:
    """Returns the lines of a list of ``SHIPPED``."""
    return gzip.decompress((files(__package__) / f"{name}.txt.gz").read_bytes()).decode("ascii").split()


def read_subset(name: str, root: Path) -> list[str]:
    """Returns the lines of a list: a shipped one, or a text file with one image a line.

    Args:
        name: Name in ``SHIPPED``, or a path; relative ones are looked for from here, then from ``root``.
        root: The dataset's folder.

    Raises:
        DataError: There is neither, the file cannot be read, or it lists nothing.
    """
    if name in SHIPPED:
        return shipped(name)
    path = Path(name).expanduser()
    found = next((p for p in (path, root / path) if p.is_file()), None)
    if found is None:
        close = difflib.get_close_matches(name, SHIPPED, n=1)
        guess = f", did you mean '{close[0]}'?" if close else ""
        raise DataError(
            f"subset {name}: neither a list that comes with mdp nor a file{guess}",
            hint=f"lists that come with mdp: {', '.join(SHIPPED)}; or name a text file with one image a line",
        )
    lines = read_lines(found)
    if not lines:
        raise DataError(f"{found}: lists no images", hint="one image a line, as the annotations name it")
    return lines


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a text file that are not blank, without the blanks around them.

    Raises:
        DataError: It cannot be read as UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(
            f"{path}: cannot be read as a list of images ({reason})", hint="one image name a line, without .jpg"
        ) from error
    return [line.strip() for line in lines if line.strip()]
