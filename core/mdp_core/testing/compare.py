"""Says how two results of one image differ, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mdp_core.data.instances import Instances
from mdp_core.data.label_map import LabelMap
from mdp_core.testing.work import Item

ROUNDING = 1e-3
"""Scores, and embeddings relative to their largest entry, may differ by this where images come in other batches."""
PIXELS = 0.01
"""Share of an image's pixels that may differ then."""


def difference(a: Sequence[Item], b: Sequence[Item], names: Sequence[str], *, exact: bool) -> str | None:
    """Returns the first difference between two lists of items, with the name of its image; None where there is none.

    Args:
        a: One item an image.
        b: The same images, done in another way.
        names: Names of the images.
        exact: Bit for bit; otherwise up to what rounding does.
    """
    for name, first, second in zip(names, a, b, strict=True):
        for one, other in zip(first, second, strict=True):
            words = _part(one, other, exact)
            if words:
                return f"{name}: {words}"
    return None


def _part(a: Any, b: Any, exact: bool) -> str | None:
    if type(a) is not type(b):
        return f"a {type(a).__name__} and a {type(b).__name__}"
    if isinstance(a, Instances):
        return _instances(a, b, exact)
    if isinstance(a, LabelMap):
        return _label_maps(a, b, exact)
    if isinstance(a, np.ndarray):
        return _arrays(a, b, "embeddings" if a.ndim == 2 else "labels", exact)
    return None


def _instances(a: Instances, b: Instances, exact: bool) -> str | None:
    if len(a) != len(b):
        return f"{len(a)} and {len(b)} masks"
    if a.size != b.size:
        return f"sizes {a.size} and {b.size}"
    if a.masks != b.masks:
        differing = int((a.to_masks() != b.to_masks()).sum(axis=(1, 2)).max())
        if exact or differing > PIXELS * a.height * a.width:
            return f"a mask differs in {differing} of {a.height * a.width} pixels"
    elif words := _arrays(a.boxes, b.boxes, "boxes", exact):
        return words
    if not np.array_equal(a.labels, b.labels):
        return f"labels {a.labels.tolist()} and {b.labels.tolist()}"
    return _arrays(a.scores, b.scores, "scores", exact)


def _label_maps(a: LabelMap, b: LabelMap, exact: bool) -> str | None:
    if a.size != b.size:
        return f"sizes {a.size} and {b.size}"
    differing = int((a.values != b.values).sum())
    if differing > (0 if exact else PIXELS * a.values.size):
        return f"{differing} of {a.values.size} pixels differ"
    if (a.probabilities is None) != (b.probabilities is None):
        return "one has probabilities, the other has none"
    if a.probabilities is not None and b.probabilities is not None:
        return _arrays(a.probabilities.astype(np.float32), b.probabilities.astype(np.float32), "probabilities", exact, 0.02)
    return None


def _arrays(a: Any, b: Any, what: str, exact: bool, tolerance: float = ROUNDING) -> str | None:
    if a.shape != b.shape:
        return f"{what} of shapes {a.shape} and {b.shape}"
    if np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
        return None
    if a.dtype.kind != "f":
        return f"{what} {a.tolist()} and {b.tolist()}"
    largest = float(np.nanmax(np.abs(a.astype(np.float64) - b)))
    scale = max(1.0, float(np.nanmax(np.abs(a))))
    if not exact and largest <= tolerance * scale:
        return None
    return f"{what} differ by up to {largest:.3g}"
