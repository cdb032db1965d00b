"""Settings of ``found``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mdp_core.api import WeightsRef
from mdp_dino.settings.vit import VitAffinityConfig


class FoundConfig(VitAffinityConfig):
    """Settings of ``found``; the defaults are the paper's."""

    weights: WeightsRef = "timm:vit_small_patch8_224.dino"
    """The ViT: timm:NAME, file:PATH (needs arch where the file does not say it) or builtin:NAME. Published with DINO's ViT-S/8."""
    short_side: int | None = Field(None, ge=16)
    """Images are resized to this shorter side, in pixels, before the ViT sees them; null: their own size, as published."""
    background: float = Field(0.3, gt=0, lt=1)
    """τ: patches whose cosine to the background's seed is above it are background."""
    head_weights: bool = True
    """Weight each head by how sparse its attention is (β_h), in the search for the seed and in the cosines. false: all heads count
    the same. ``facet: tokens`` has no heads, and its cosines are never weighted."""
    component: Literal["largest", "each", "all"] = "largest"
    """What of the foreground becomes a mask: its largest 4-connected part, as where the paper finds single objects; each part a mask of
    its own; or all of it as one, as where the paper looks for what is salient."""
    refine: bool = False
    """Move the borders to those of the image with the bilateral solver, as the paper does before it trains its student. Where the result
    overlaps what it came from by no more than half (IoU), that is kept instead."""
