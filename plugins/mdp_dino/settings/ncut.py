"""What the settings of the priors that cut a thresholded graph share."""

from __future__ import annotations

from pydantic import Field

from mdp_dino.settings.vit import VitAffinityConfig


class GraphConfig(VitAffinityConfig):
    """Settings of ``tokencut`` and ``maskcut``."""

    eps: float = Field(1e-5, gt=0, lt=1)
    """Weight of the link between two patches that are not alike; that of two which are is 1."""
    max_patches: int = Field(10_000, ge=4)
    """An image of more patches is shrunk until it has no more, since the graph takes about 16 bytes for each pair of them: 1.6 GB at
    10,000, which is 1600 × 1600 pixels in patches of 16, or 800 × 800 in patches of 8."""
