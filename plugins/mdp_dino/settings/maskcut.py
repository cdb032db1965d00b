"""Settings of ``maskcut``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from mdp_core.api import WeightsRef
from mdp_dino.settings.ncut import GraphConfig


class MaskCutConfig(GraphConfig):
    """Settings of ``maskcut``; the defaults are the paper's and its program's."""

    trial: ClassVar[Mapping[str, Any]] = {**GraphConfig.trial, "square": 96, "masks": 2}

    weights: WeightsRef = "timm:vit_base_patch8_224.dino"
    """The ViT: timm:NAME, file:PATH (needs arch where the file does not say it) or builtin:NAME. Published with DINO's ViT-B/8."""
    square: int | None = Field(480, ge=16)
    """Images are squashed to a square of this side, in pixels, before the ViT sees them, whatever their shape, as published. null:
    they keep their shape, and short_side says how large they are."""
    masks: int = Field(3, ge=1, le=100)
    """Cuts an image, at most: each finds a mask among the patches that the earlier ones left."""
    tau: float = Field(0.15, ge=0, lt=1)
    """Patches are alike where the cosine of their features is above this."""
    crf: bool = True
    """Move the borders to those of the image with a dense CRF, as published; a mask that it changes by more than half (IoU) is dropped.
    false: masks of patches."""
