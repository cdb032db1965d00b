"""Settings of ``dino-attention``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mdp_dino.settings.vit import VitPriorConfig


class DinoAttentionConfig(VitPriorConfig):
    """Settings of ``dino-attention``; the defaults are those of MaskDistill's baseline (its A.4).

    LOST's baseline, "DINO-seg": ``heads: 4``, ``mass: 0.6``, ``components: 1``, ``short_side: null``, ``padding: zeros``.
    """

    heads: Literal["sum"] | Annotated[int, Field(ge=0)] = "sum"
    """sum: the attention of all heads is added up, as in MaskDistill's baseline; a number: only this head's, counted from 0, as in
    DINO's own pictures. Which head shows objects differs from network to network."""
    mass: float = Field(0.75, gt=0, lt=1)
    """Share of the attention to patches that the mask holds, counted from the most attended patch on. DINO's own pictures: 0.6."""
    components: int | None = Field(None, ge=1)
    """null: one mask of all these patches, as in the baseline; a number: the largest 4-connected parts, up to so many, each a mask
    of its own."""
