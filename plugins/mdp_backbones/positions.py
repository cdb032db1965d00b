"""Learnt positions for another grid of patches than the one they were trained for: two rules, both bicubic."""

from __future__ import annotations

from typing import Literal

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

Positions = Literal["size", "scale-factor"]
"""How learnt positions are resampled."""
OFFSET = 0.1
"""Cells that DINO adds to each side of the grid, so that rounding never loses one."""


def resample_positions(
    embedding: Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int, *, antialias: bool, rule: Positions = "size"
) -> Tensor:
    """Resamples learnt positions to another grid.

    ``size`` stretches the old grid over the new one. ``scale-factor`` is what DINO's own code does
    (https://arxiv.org/abs/2104.14294): it enlarges by (cells + 0.1) / old cells, and takes the coordinates from that factor.
    Positions therefore lie up to a tenth of a cell of the new grid elsewhere. On the grid of the training both change nothing.

    Args:
        embedding: float (1, prefix + rows · columns, dim), rows and columns of ``old``.
        old: (rows, columns) that they were trained for.
        new: (rows, columns) wanted.
        prefix: How many of the tokens, the first, have no place; they stay as they are.
        antialias: Of the bicubic kernel. torch's two kernels differ even where they enlarge: a = -0.75 without, a = -0.5 with.
        rule: Which of the two.

    Returns:
        float (1, prefix + new rows · new columns, dim).
    """
    if rule == "size":
        return resample_abs_pos_embed(
            embedding, new_size=list(new), old_size=list(old), num_prefix_tokens=prefix, antialias=antialias
        )
    if new == tuple(old):
        return embedding
    grid = embedding[:, prefix:].unflatten(1, tuple(old)).permute(0, 3, 1, 2).float()
    factors = [(wanted + OFFSET) / there for wanted, there in zip(new, old, strict=True)]
    resampled = torch.nn.functional.interpolate(grid, scale_factor=factors, mode="bicubic", antialias=antialias)
    return torch.cat([embedding[:, :prefix], resampled.flatten(2).transpose(1, 2).to(embedding.dtype)], dim=1)
