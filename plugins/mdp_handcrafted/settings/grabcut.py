"""Settings of ``grabcut``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mdp_core.api import NoEffect, PathRef, StageConfig
from mdp_handcrafted.settings.mask_folder import stated


class GrabCutConfig(StageConfig):
    """Settings of ``grabcut``."""

    seeded_steps: ClassVar[tuple[str, ...]] = ()

    boxes: PathRef | None = None
    """A COCO JSON whose boxes (or the boxes of its masks, where an annotation has none) GrabCut starts from, each by itself. null: one
    box in the middle of the image. Its contents, not its path, decide what is mined anew."""
    margin: float = Field(0.1, gt=0, lt=0.5)
    """Share of the image that the box in the middle leaves free on each side."""
    iterations: int = Field(5, ge=1, le=100)
    """How often colours are learnt and the border is cut."""
    component: Literal["largest", "all"] = "largest"
    """largest: the largest connected part of what GrabCut finds, since specks far from an object spoil its box; all: everything, as
    in the paper."""
    side: int = Field(300, ge=16)
    """Longer side, in pixels, at which GrabCut works; smaller images stay as they are. Masks have the image's own size."""
    min_area: float = Field(0.01, ge=0, lt=1)
    """A mask that covers a smaller share of its box is a collapse, and no object."""
    min_score: float = Field(0.0, ge=0, le=1)
    """Masks with a lower score are left out. A score of 0 is always no object: the colours tell inside and outside no better than
    chance."""
    missing: Literal["error", "empty"] = "error"
    """What an image is that the file of boxes does not list: an error, or an image without objects."""
    supervision: Annotated[str, NoEffect] = Field("unknown", min_length=1)
    """What ground truth stands behind the boxes, in words, which every result repeats: none where they were made without labels."""

    def labels_used(self) -> str | None:
        """Returns what the setting ``supervision`` states of given boxes; None without them."""
        unknown = "boxes made elsewhere; whether labels stand behind them is not stated"
        return None if self.boxes is None else stated(self.supervision, unknown)
