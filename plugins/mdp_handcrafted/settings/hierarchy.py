"""Settings of ``hierarchy``."""

from __future__ import annotations

from pydantic import Field

from mdp_handcrafted.settings.regions import RegionPriorConfig


class HierarchyConfig(RegionPriorConfig):
    """Settings of ``hierarchy``."""

    sigma: float = Field(2.0, ge=0)
    """Standard deviation of the Gaussian blur before the gradient, in pixels at max_side. Larger values leave out fine texture, and
    make fewer regions to begin with."""
    size_power: float = Field(0.5, ge=0)
    """The strength of a boundary is the mean gradient along it times the smaller region's share of the image to this power, so that
    small regions are absorbed by what is around them before large ones merge. 0: the mean gradient alone, as in ultrametric contour
    maps; the most stable regions then are mostly small details."""
    threshold: float = Field(0.1, ge=0)
    """Regions that merge with another across a weaker boundary are no objects (the threshold of the ultrametric contour map); a
    gradient in units of CIE Lab a pixel, times the share of the image to the power size_power."""
    min_contrast: float = Field(2.3, ge=0)
    """A region is no object where its mean colour differs by less from that of the region it merges with; a distance in CIE Lab. 2.3
    is about the smallest difference that people notice. Noise and texture have edges, too, but no regions that differ."""
