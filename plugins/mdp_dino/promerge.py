"""Prior ``promerge``: what a grid of patches selects, pruned by what is background, and merged to objects.

Li and Shin, "ProMerge: Prompt and Merge for Unsupervised Instance Segmentation" (ECCV 2024), https://arxiv.org/abs/2409.18961:

1. Every ``stride``-th patch is a prompt. It selects the patches whose cosine with it is above τ.
2. A selection that touches more than one side of the image may be background. What most of these hold is the background.
3. Every other selection falls into 4-connected parts, of which the prompt's own and those at least half as large are kept.
4. A part that mostly lies in the background, or whose mean feature is like the background's, is dropped.
5. From the largest to the smallest, each part joins the first object that it mostly lies in, or that it overlaps a little and is
   like; otherwise it is a new object.
6. A dense CRF moves the borders, as in MaskCut.

Nothing here is N × N, and there is no eigenvector to look for: with P prompts it is O(P · N).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mdp_core.api import Bitmap
from mdp_dino.ncut import unit
from mdp_dino.patches import Grouping, Patches
from mdp_dino.pixels import Size
from mdp_dino.settings.promerge import ProMergeConfig
from mdp_dino.squares import SquarePrior

Features = NDArray[np.float32]
"""float32 (N, d), of length 1 or 0."""

SIDES = 1
"""A selection that touches more sides of the image may be background."""
AS_LARGE = 0.5
"""Parts of a selection at least this large, beside the prompt's own part, are kept."""
IN_BACKGROUND = 0.8
"""A part of which at least this share lies in the background is dropped."""
LIKE_BACKGROUND = 0.1
"""So is one whose mean feature has at least this cosine with the background's."""
INSIDE = 0.5
"""A part of which more than this share lies in an object belongs to it."""
TOUCHING = 0.1
"""So does one of which more than this share does, if ..."""
ALIKE = 0.1
"""... the cosine of the mean features is above this."""


class ProMerge(SquarePrior[ProMergeConfig]):
    """Finds as many objects as there are."""

    Config = ProMergeConfig

    def group(self, patches: Patches) -> Grouping:
        """Returns the masks, of pixels, the largest first; each score is how far the prompts in the mask agree on it (``agreement``).

        There is no object where the image has one colour, where every selection is background or like it, and where the CRF drops all.
        """
        config = self.config
        if patches.plain:
            return Grouping.nothing((patches.pixels.shape[0], patches.pixels.shape[1]), 1)
        features = unit(patches.values[config.facet], centred=config.centre_keys)
        prompts = prompt_grid(patches.grid, config.stride)
        selected = (features[prompts] @ features.T > config.tau).reshape(-1, *patches.grid)
        behind = touched_sides(selected) > SIDES
        background = common(selected[behind], config.background)
        parts = [
            part for prompt, mask in zip(prompts[~behind], selected[~behind], strict=True) for part in kept_parts(mask, prompt)
        ]
        objects = merged(foreground(parts, background, features), features)[: config.masks]
        scores = [agreement(found, prompts) for found in objects]
        return self.sharpened_grouping([found.mask for found in objects], scores, patches)


@dataclass
class Object:
    """What some parts have grown to.

    Attributes:
        mask: bool (rows, columns), the union of its parts.
        parts: bool (rows, columns) each.
    """

    mask: Bitmap
    parts: list[Bitmap]


def prompt_grid(grid: Size, stride: int) -> NDArray[np.int64]:
    """Returns the indices of the prompts, int64 (P,): every ``stride``-th patch of every ``stride``-th row, from the first on."""
    return np.arange(grid[0] * grid[1]).reshape(grid)[::stride, ::stride].ravel()


def touched_sides(masks: Bitmap) -> NDArray[np.int64]:
    """Returns how many of the image's four sides each mask of bool (P, rows, columns) touches, int64 (P,); a corner has two."""
    edges = (masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1])
    return np.sum([edge.any(axis=1) for edge in edges], axis=0, dtype=np.int64)


def common(candidates: Bitmap, least: float) -> Bitmap:
    """Returns the patches that more than half of the candidates hold; none where these are less than the share ``least`` of all.

    Args:
        candidates: bool (n, rows, columns).
        least: A share.
    """
    voted: Bitmap = 2 * candidates.sum(axis=0) > max(len(candidates), 1)
    return voted if voted.mean() >= least else np.zeros_like(voted)


def kept_parts(mask: Bitmap, prompt: int) -> list[Bitmap]:
    """Splits a selection into 4-connected parts: the prompt's own, and those at least half as large; none where it does not select itself."""
    labels, count = ndimage.label(mask)
    own = labels.flat[prompt]
    if not own:  # its feature is zero
        return []
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    return [labels == part for part in range(1, count + 1) if sizes[part] >= AS_LARGE * sizes[own]]


def foreground(parts: list[Bitmap], background: Bitmap, features: Features) -> list[Bitmap]:
    """Returns the parts that are not background, the largest first; of equals the one that came first.

    Args:
        parts: bool (rows, columns) each, none empty.
        background: bool (rows, columns); where it is empty, everything is kept.
        features: One a patch.
    """
    ordered = sorted(parts, key=lambda part: -int(part.sum()))
    if not background.any():
        return ordered
    behind = mean_feature(background, features)
    return [
        part
        for part in ordered
        if (part & background).sum() < IN_BACKGROUND * part.sum()
        and likeness(mean_feature(part, features), behind) < LIKE_BACKGROUND
    ]


def merged(parts: list[Bitmap], features: Features) -> list[Object]:
    """Merges parts, the largest first, to objects, and returns the largest of these first; of equals the one that began first.

    Args:
        parts: bool (rows, columns) each, none empty.
        features: One a patch.
    """
    objects: list[Object] = []
    for part in parts:
        home = next((found for found in objects if belongs(part, found.mask, features)), None)
        if home is None:
            objects.append(Object(part.copy(), [part]))
        else:
            home.mask |= part
            home.parts.append(part)
    return sorted(objects, key=lambda found: -int(found.mask.sum()))


def belongs(part: Bitmap, mask: Bitmap, features: Features) -> bool:
    """Says whether a part lies in an object, or overlaps it and is like it."""
    shared, area = int((part & mask).sum()), int(part.sum())
    if shared > INSIDE * area:
        return True
    return shared > TOUCHING * area and likeness(mean_feature(part, features), mean_feature(mask, features)) > ALIKE


def mean_feature(mask: Bitmap, features: Features) -> NDArray[np.float64]:
    """Returns the mean feature, float64 (d,), of the patches of a mask that is not empty."""
    mean: NDArray[np.float64] = features[mask.ravel()].mean(axis=0, dtype=np.float64)
    return mean


def likeness(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Returns the cosine of two mean features, float64 (d,); 0 where one is zero."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths > 0 else 0.0


def agreement(found: Object, prompts: NDArray[np.int64]) -> float:
    """Returns how far the prompts inside an object agree on it: the mean overlap (IoU) of what each selected with the object.

    Prompts inside whose selection was dropped, or went elsewhere, count 0. Parts that other prompts selected count as well.

    Args:
        found: The object.
        prompts: Indices of all prompts.
    """
    overlaps = [(part & found.mask).sum() / (part | found.mask).sum() for part in found.parts]
    inside = int(found.mask.ravel()[prompts].sum())
    return float(sum(overlaps) / max(len(overlaps), inside))
