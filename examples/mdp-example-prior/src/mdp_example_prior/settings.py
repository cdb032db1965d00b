"""Settings of prior example-prior."""

from __future__ import annotations

from typing import ClassVar

from mdp_core.api import StageConfig
from pydantic import Field


class BorderPaletteConfig(StageConfig):
    """Settings of example-prior."""

    cache_version: ClassVar[int] = 1  # raise it when the same settings give other masks than before

    border: float = Field(0.05, gt=0, lt=0.5)
    """Width of the frame whose colours are the background's, as a share of the shorter side; at least a pixel."""
    colours: int = Field(4, ge=1, le=32)
    """How many colours the background may have."""
    smooth: float = Field(1.0, ge=0)
    """Standard deviation in pixels of the Gaussian over the distances; 0: none."""
    min_area: float = Field(0.005, ge=0, le=1)
    """Smallest object, as a share of the image's pixels."""
    max_objects: int = Field(3, ge=1)
    """Objects an image, the largest ones."""
    min_score: float = Field(0.6, ge=0, le=1)
    """An object that stands out less is left out; an image may have none."""
