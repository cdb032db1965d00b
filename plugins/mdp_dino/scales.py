"""Multi-scale grouping: the features of one image seen at several sizes, as one feature a patch (MaskDistill's future work).

Affinities are averaged over the scales: A = 1/|S| Σ_s A_s, and a_CLS likewise. Each A_s is made of dot products, so their sum is
one dot product of the features of all scales side by side: time and memory stay O(N · d), and no N × N matrix is built.
Dividing by |S| changes no sign and no order, and is left out.

All scales are brought to one grid, that of scale 1. Where a scale is coarser, its features are interpolated between the centres
of its patches; where it is finer, they are averaged (a triangle as wide as a patch of the grid, as Pillow's bilinear filter).

Features of one scale may be longer than those of another, not least because averaging shortens them, and the longer ones would
decide alone. So each scale's are divided by their spread, the root mean square of their norms over the patches (of their
distances from their mean where keys are centred): every scale then has the same mean affinity of a patch to itself, 1, and
the same say. CLS's own vectors are divided by the spread of the same facet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdp_core.api import Pixels

Size = tuple[int, int]


@dataclass(frozen=True)
class Views:
    """One image at the sizes of all scales, ready for the network.

    Attributes:
        base: uint8 (h, w, 3), the picture at scale 1, whose grid of patches is that of the masks.
        base_size: (height, width) of it without padding.
        pictures: uint8 (h, w, 3), one a scale.
        sizes: (height, width) of each without padding.
    """

    base: Pixels
    base_size: Size
    pictures: tuple[Pixels, ...]
    sizes: tuple[Size, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shapes of all pictures in a row: views of the same shape can go through the network together."""
        return tuple(side for picture in (self.base, *self.pictures) for side in picture.shape)

    @property
    def largest(self) -> int:
        """Pixels of the largest picture."""
        return max(picture.shape[0] * picture.shape[1] for picture in self.pictures)


def scaled(size: Size, scale: float) -> Size:
    """Returns (height, width) times ``scale``, rounded, at least one pixel."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resampling(to: int, of: int, ratio: float) -> Tensor:
    """Makes the matrix that resamples a row of cells.

    Args:
        to: Cells wanted.
        of: Cells there are.
        ratio: Width of a wanted cell in cells there are. ``of`` may be more or less than ``ratio · to``, where padding fills up the
            last cell; beyond the last centre, the last cell counts.

    Returns:
        float32 (to, of), rows ≥ 0 that add up to 1.
    """
    centres = ((torch.arange(to, dtype=torch.float64) + 0.5) * ratio).clamp(0.5, of - 0.5)
    distances = (torch.arange(of, dtype=torch.float64) + 0.5 - centres[:, None]).abs()
    weights = (1 - distances / max(1.0, ratio)).clamp(min=0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def resampled(values: Tensor, of: Size, to: Size, ratio: tuple[float, float]) -> Tensor:
    """Resamples float32 (rows · columns, width) of a grid ``of`` patches to another one; the same values on the same grid.

    Args:
        values: Of the patches in row-major order.
        of: (rows, columns) there are.
        to: (rows, columns) wanted.
        ratio: Height and width of a wanted patch in patches there are.
    """
    if of == to and ratio == (1.0, 1.0):
        return values
    down, across = (resampling(*sides).to(values.device) for sides in zip(to, of, ratio, strict=True))
    rows = (down @ values.reshape(of[0], -1)).reshape(to[0], of[1], -1)
    return (across @ rows).flatten(0, 1)


def side_by_side(patches: Sequence[Tensor], prefixes: Sequence[Tensor], *, centred: bool) -> tuple[Tensor, Tensor]:
    """Joins the features of several scales so that each has the same say; those of one scale stay as they are.

    Args:
        patches: float32 (N, width), one a scale, on one grid.
        prefixes: float32 (P, width), one a scale: CLS and registers.
        centred: The mean will be taken away: measure the spread from there.

    Returns:
        float32 (N, scales · width) and (P, scales · width).
    """
    if len(patches) == 1:
        return patches[0], prefixes[0]
    spreads = [spread(values, centred=centred) for values in patches]
    joined = [torch.cat([one / by for one, by in zip(ones, spreads, strict=True)], dim=-1) for ones in (patches, prefixes)]
    return joined[0], joined[1]


def spread(values: Tensor, *, centred: bool) -> Tensor:
    """Returns the root mean square of the norms of float (N, width), or of the distances from the mean; 1 where that is 0."""
    around = values - values.mean(dim=0) if centred else values
    found = around.square().sum(dim=1).mean().sqrt()
    return torch.where(found > 0, found, torch.ones_like(found))
