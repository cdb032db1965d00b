"""What the settings of priors share that see each image as a square, and move the borders of masks with a CRF, as CutLER does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from mdp_core.api import WeightsRef
from mdp_dino.settings.vit import VitAffinityConfig


class SquareConfig(VitAffinityConfig):
    """Settings of ``maskcut`` and ``promerge``."""

    trial: ClassVar[Mapping[str, Any]] = {**VitAffinityConfig.trial, "square": 96}

    weights: WeightsRef = "timm:vit_base_patch8_224.dino"
    """The ViT: timm:NAME, file:PATH (needs arch where the file does not say it) or builtin:NAME. Published with DINO's ViT-B/8."""
    square: int | None = Field(480, ge=16)
    """Images are squashed to a square of this side, in pixels, before the ViT sees them, whatever their shape, as published. null:
    they keep their shape, and short_side says how large they are."""
    crf: bool = True
    """Move the borders to those of the image with a dense CRF, as published; a mask that it changes by more than half (IoU) is dropped.
    false: masks of patches."""
