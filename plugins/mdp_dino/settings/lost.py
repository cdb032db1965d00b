"""Settings of ``lost``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mdp_dino.settings.vit import VitAffinityConfig


class LostConfig(VitAffinityConfig):
    """Settings of ``lost``; the defaults are the paper's and its program's.

    MaskDistill compares itself with LOST on ``short_side: 640`` and ``expand: 400`` (its A.4), which improved LOST's figures.
    """

    short_side: int | None = Field(None, ge=16)
    """Images are resized to this shorter side, in pixels, before the ViT sees them; null: their own size, as published."""
    padding: Literal["edge", "zeros"] = "zeros"
    """What fills up the last patches on the right and at the bottom: copies of the image's edge, or zeros after normalisation, as
    published."""
    expand: int = Field(100, ge=1)
    """How many patches, those with the fewest friends, may join the seed. 1: the mask holds the friends of the seed alone.
    Published with 100; MaskDistill's figures of LOST are with 400 at 640 pixels (about 2,100 patches, where 100 are few)."""
