"""What the settings of the priors on a tree of regions share: how large objects are, and how many come out."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from mdp_core.api import StageConfig


class RegionPriorConfig(StageConfig):
    """Settings of every prior that merges regions."""

    seeded_steps: ClassVar[tuple[str, ...]] = ()

    masks: int = Field(1, ge=1)
    """Masks an image at most, the best ones; an image without regions that stand out has none."""
    min_area: float = Field(0.01, ge=0, le=1)
    """Smallest object, as a share of the image."""
    max_area: float = Field(0.5, gt=0, le=1)
    """Largest object, as a share of the image. The image as a whole is never one."""
    max_side: int | None = Field(320, ge=16)
    """Larger images are worked on at this longer side, in pixels, and masks brought back to the image's size; null: at their own size.
    Time goes with the number of pixels: 500 px take 2.3 to 3 times as long as 320. It also decides which detail counts: on photographs
    of 500 px, one in ten (hierarchy: one in five) gets another region altogether than at their own size. Settings
    in pixels (min_size, sigma) are pixels of this size."""
    border: float | None = Field(1.0, gt=0)
    """How much of the image's border a region may touch: its score is multiplied by exp(-b² / (2 border²)), where b = pixels on the
    border / √area is 0 inside the image and 1 for a square that leans on it with one side. null: touching the border costs nothing."""
    min_score: float = Field(0.01, ge=0, le=1)
    """Masks with a lower score are left out, so that an image may have none. A score of 0 never is a mask, even where this is 0."""
    max_iou: float = Field(0.0, ge=0, lt=1)
    """Largest overlap (intersection over union) of a mask with a better one of its image. 0: no pixel belongs to two masks."""
    fill_holes: bool = True
    """Fill what a region encloses, unless it would then be larger than max_area."""

    @model_validator(mode="after")
    def _areas_in_order(self) -> Self:
        if self.min_area > self.max_area:
            raise ValueError(f"min_area ({self.min_area}) is above max_area ({self.max_area}): no region can be an object")
        return self
