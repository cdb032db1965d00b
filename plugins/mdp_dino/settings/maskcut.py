"""Settings of ``maskcut``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from mdp_dino.settings.ncut import GraphConfig
from mdp_dino.settings.square import SquareConfig


class MaskCutConfig(GraphConfig, SquareConfig):
    """Settings of ``maskcut``; the defaults are the paper's and its program's."""

    trial: ClassVar[Mapping[str, Any]] = {**SquareConfig.trial, "masks": 2}

    masks: int = Field(3, ge=1, le=100)
    """Cuts an image, at most: each finds a mask among the patches that the earlier ones left."""
    tau: float = Field(0.15, ge=0, lt=1)
    """Patches are alike where the cosine of their features is above this."""
