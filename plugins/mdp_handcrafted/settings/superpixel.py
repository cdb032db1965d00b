"""Settings of ``superpixel``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mdp_core.api import Settings
from mdp_handcrafted.settings.regions import RegionPriorConfig


class SlicConfig(Settings):
    """Settings of SLIC."""

    segments: int = Field(400, ge=1)
    """Superpixels, about; enforcing that each is connected leaves fewer. 100 is scikit-image's default; since they are merged to
    objects anyway, smaller ones only follow outlines better."""
    compactness: float = Field(10.0, gt=0)
    """Weight of nearness against likeness of colour: larger values make squarer superpixels."""
    iterations: int = Field(10, ge=1)
    """Rounds of k-means."""
    sigma: float = Field(0.0, ge=0)
    """Standard deviation of the Gaussian blur before, in pixels; 0: none."""


class FelzenszwalbConfig(Settings):
    """Settings of Felzenszwalb and Huttenlocher's segmentation."""

    scale: float = Field(200.0, gt=0)
    """Larger values make larger superpixels; Selective Search takes 100 to 200."""
    sigma: float = Field(0.8, ge=0)
    """Standard deviation of the Gaussian blur before, in pixels; 0: none."""
    min_size: int = Field(20, ge=1)
    """Smaller superpixels are merged with a neighbour, in pixels."""


class SuperpixelConfig(RegionPriorConfig):
    """Settings of ``superpixel``."""

    method: Literal["slic", "felzenszwalb"] = "slic"
    """Which superpixels."""
    slic: SlicConfig = SlicConfig()
    """Settings of method slic."""
    felzenszwalb: FelzenszwalbConfig = FelzenszwalbConfig()
    """Settings of method felzenszwalb."""
    min_contrast: float = Field(2.3, ge=0)
    """A region is no object where its mean colour differs from that of the superpixels around it by less, on average; a distance in
    CIE Lab. 2.3 is about the smallest difference that people notice."""
