"""Settings of ``saliency``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mdp_core.api import StageConfig


class SaliencyConfig(StageConfig):
    """Settings of ``saliency``."""

    seeded_steps: ClassVar[tuple[str, ...]] = ()

    method: Literal["background", "barrier", "spectral-residual"] = "background"
    """background: robust background detection (Zhu et al., 2014), which fills whole objects best; barrier: minimum barrier distance
    (Zhang et al., 2015), sharper and rather a part of an object; spectral-residual: Hou and Zhang (2007), the weak baseline."""
    side: int = Field(300, ge=16)
    """Longer side, in pixels, at which the map is made; smaller images stay as they are. Masks have the image's own size."""
    superpixels: int = Field(250, ge=4)
    """About how many superpixels the method background divides an image into."""
    background_weight: float = Field(1.0, gt=0, le=100)
    """Factor of the background's weight in the optimisation of the method background; 1 is the paper's. At 2, masks spill less over the
    edge of objects, by eye, and leave out more of them."""
    threshold: Literal["otsu", "adaptive"] | Annotated[float, Field(gt=0, lt=1)] = 0.5
    """What of the map, which lies in [0, 1], belongs to a mask: all above a number, above Otsu's threshold of the image, or above twice
    the map's mean (adaptive; Achanta et al., 2009)."""
    masks: int = Field(1, ge=1)
    """How many masks an image has at most: its connected parts, those with the largest sum of saliency first."""
    parts: Literal["apart", "together"] = "apart"
    """apart: each connected part is a mask; together: all parts are one mask, as in MaskContrast."""
    min_area: float = Field(0.01, ge=0, lt=1)
    """Parts that cover a smaller share of the image are left out, and so is a mask of all parts together."""
    min_score: float = Field(0.0, ge=0, le=1)
    """Masks with a lower score (mean saliency inside minus outside) are left out."""
