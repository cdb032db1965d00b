"""What the settings of all priors on a ViT's features share: which network, which of its features, at which size.

Where a recipe puts one of these priors in another's place, it keeps the settings that both inherit from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from mdp_core.api import NoEffect, StageConfig, WeightsRef


class VitPriorConfig(StageConfig):
    """Settings of every prior that reads a ViT."""

    seeded_steps: ClassVar[tuple[str, ...]] = ()
    trial: ClassVar[Mapping[str, Any]] = {"weights": "builtin:tiny", "short_side": 48}

    weights: WeightsRef = "timm:vit_small_patch16_224.dino"
    """The ViT: timm:NAME, file:PATH (needs arch where the file does not say it) or builtin:NAME (builtin:random is untrained; for
    trials, together with centre_keys)."""
    arch: str | None = None
    """timm architecture of file: weights, for example vit_small_patch16_224.dino."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type of the network's weights and activations. bf16 and fp16 are faster on a GPU and change masks slightly."""
    block: int = -1
    """Block of the network that is read; negative numbers count from the end."""
    short_side: int | None = Field(640, ge=16)
    """Images are resized to this shorter side, in pixels, before the ViT sees them; null: their own size."""
    longest: float = Field(8.0, ge=1)
    """The longer side is at most this many times short_side: a strip of an image that would be longer is shrunk as a whole, to less
    than short_side on its shorter side. Without effect where short_side is null."""
    padding: Literal["edge", "zeros"] = "edge"
    """What fills up the last patches on the right and at the bottom: copies of the image's edge, or zeros after normalisation."""
    positions: Literal["size", "scale-factor"] = "size"
    """How learnt positions are resampled to the image's grid of patches: size stretches them over it; scale-factor does it as
    DINO's own code, which moves them by up to a tenth of a patch. Networks without learnt positions are not affected."""
    min_score: float = Field(0.0, ge=0, le=1)
    """Masks with a lower score are left out, so that an image may have none."""
    batch: Annotated[int, NoEffect] = Field(8, ge=1)
    """Images of equal size that go through the network together, at most."""
    batch_megapixels: Annotated[float, NoEffect] = Field(5.0, gt=0)
    """At most so many million pixels go through the network together, but one image always, so that memory does not grow with
    short_side times batch. A GPU with much memory can take more."""


class VitAffinityConfig(VitPriorConfig):
    """Settings of every prior that compares patches with each other."""

    trial: ClassVar[Mapping[str, Any]] = {**VitPriorConfig.trial, "centre_keys": True}

    facet: Literal["k", "q", "v", "tokens"] = "k"
    """What affinities compare: keys, queries, values or the block's output."""
    centre_keys: bool = False
    """Subtract the image's mean key (or whatever facet says) first. Networks whose keys all point one way (untrained and small ones)
    need it."""
