"""Settings of the refiners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from mdp_core.api import RefinerConfig, Settings


class ConfidenceConfig(RefinerConfig):
    """Settings of ``confidence``; the defaults are the paper's (§3.3 and A.1)."""

    seeded_steps: ClassVar[tuple[str, ...]] = ()

    threshold: float = Field(0.9, ge=0, le=1)
    """Masks with a score above this are kept."""
    comparison: Literal["above", "at-least"] = "above"
    """Whether a score must be above the threshold (paper, §3.3) or may equal it (the authors' code)."""
    keep_best: bool = True
    """Keep the best mask of an image where none passes the threshold."""
    pixels: Literal["mask", "box", "grabcut"] = "mask"
    """Which pixels a detection labels (paper, Table S1): its mask, its filled box, or what GrabCut finds in its box."""
    overlap: Literal["confident-wins", "skip-overlapping", "authors"] = "confident-wins"
    """Where masks overlap: the pixel belongs to the most confident one (paper); a mask that touches a more confident one is left
    out whole (what the authors' code means to do); or what the authors' code does: less confident masks paint over more confident
    ones, and are left out where the top two rows of the image are painted (docs/refiners.md)."""


class GaussianConfig(Settings):
    """The smoothness kernel of ``dense-crf``: a Gaussian in position."""

    weight: float = Field(3.0, ge=0)
    """Factor of the kernel; 0 leaves it out."""
    sxy: float = Field(1.0, gt=0)
    """Standard deviation in pixels."""


class BilateralConfig(Settings):
    """The appearance kernel of ``dense-crf``: a Gaussian in position and colour."""

    weight: float = Field(4.0, ge=0)
    """Factor of the kernel; 0 leaves it out."""
    sxy: float = Field(67.0, gt=0)
    """Standard deviation in pixels."""
    srgb: float = Field(3.0, gt=0)
    """Standard deviation in levels of a colour channel (0 to 255)."""


class DenseCrfConfig(RefinerConfig):
    """Settings of ``dense-crf``; the defaults are the constants of the authors' code, which MaskContrast and STEGO share."""

    accepts: ClassVar[tuple[str, ...]] = ("label-maps", "instances")
    dense_crf: ClassVar[bool] = True
    seeded_steps: ClassVar[tuple[str, ...]] = ()
    trial: ClassVar[Mapping[str, Any]] = {"max_side": 320}

    backend: Literal["builtin", "pydensecrf"] = "builtin"
    """builtin needs no compiler; pydensecrf is the original C++ code (pip install "mdp-platform[crf]"). They agree on more than
    99 % of the pixels (docs/refiners.md)."""
    unary: Literal["probabilities", "labels"] = "probabilities"
    """What is known of a pixel of a label map: the network's probabilities (as the authors), or its label alone. Painted instances
    have labels alone, whatever stands here."""
    iterations: int = Field(10, ge=0)
    """Mean-field updates (authors' code)."""
    gaussian: GaussianConfig = GaussianConfig()
    """The smoothness kernel."""
    bilateral: BilateralConfig = BilateralConfig()
    """The appearance kernel."""
    certainty: float = Field(0.7, gt=0, lt=1)
    """How probable a pixel's label is where labels alone are known; the others of the image share the rest (0.7 as in the examples of
    pydensecrf)."""
    least_probability: float = Field(1e-5, gt=0, le=0.1)
    """Smaller probabilities are raised to this, so that no label is impossible (as pydensecrf does)."""
    label_floor: float = Field(0.3, ge=0, le=1)
    """A label that is nowhere the most probable takes part where its probability reaches this somewhere in the image; 0: all
    labels take part, several times slower. Concerns probabilities; of labels, those that occur take part."""
    max_side: int | None = Field(None, ge=16)
    """Work at a size whose longer side has at most this many pixels, and bring the marginals back to the image's size; the kernels'
    standard deviations are then pixels of the smaller size. null: the image's own size, up to 0.3 GB and 9 s a megapixel
    with six labels."""

    @property
    def needs_probabilities(self) -> bool:
        """Whether label maps must come with probabilities."""
        return self.unary == "probabilities"
