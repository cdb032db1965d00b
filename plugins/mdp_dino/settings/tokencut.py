"""Settings of ``tokencut``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mdp_dino.settings.ncut import GraphConfig


class TokenCutConfig(GraphConfig):
    """Settings of ``tokencut``; the defaults are the paper's and its program's."""

    short_side: int | None = Field(None, ge=16)
    """Images are resized to this shorter side, in pixels, before the ViT sees them; null: their own size, as published."""
    padding: Literal["edge", "zeros"] = "zeros"
    """What fills up the last patches on the right and at the bottom: copies of the image's edge, or zeros after normalisation, as
    published."""
    tau: float = Field(0.2, ge=0, lt=1)
    """Patches are alike where the cosine of their features is above this."""
    component: Literal["seed", "all"] = "seed"
    """seed: only the 4-connected part that holds the patch where the eigenvector is largest, as where the paper discovers objects.
    all: the whole side of that patch."""
    bilateral_solver: bool = False
    """Move the borders to those of the image with the bilateral solver, as the paper does where it segments. Where the result
    overlaps what it came from by less than half (IoU), that is kept instead."""
