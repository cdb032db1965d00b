"""Settings of the refiners."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mdp_core.api import RefinerConfig


class ConfidenceConfig(RefinerConfig):
    """Settings of ``confidence``; the defaults are the paper's (§3.3 and A.1)."""

    seeded_steps: ClassVar[tuple[str, ...]] = ()

    threshold: float = Field(0.9, ge=0, le=1)
    """Masks with a score above this are kept (above, as in the paper; the authors' code also keeps equal scores)."""
    keep_best: bool = True
    """Keep the best mask of an image where none is above the threshold."""
    overlap: Literal["confident-wins"] = "confident-wins"
    """Where masks overlap: the pixel belongs to the most confident one."""
