"""Settings of ``deep-spectral``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mdp_dino.settings.vit import VitAffinityConfig


class DeepSpectralConfig(VitAffinityConfig):
    """Settings of ``deep-spectral``; the defaults are those of the paper's object localisation."""

    short_side: int | None = Field(None, ge=16)
    """Images are resized to this shorter side, in pixels, before the ViT sees them; null: their own size, as published."""
    max_patches: int = Field(10_000, ge=4)
    """An image of more patches is shrunk until it has no more, since the graph takes about 16 bytes for each pair of them: 1.6 GB at
    10,000, which is 1600 × 1600 pixels in patches of 16, or 800 × 800 in patches of 8."""
    segments: Literal["one", "many"] = "one"
    """one: the smaller side of the Fiedler vector's sign, as the paper localises and segments objects. many: k-means on the
    eigenvectors, as the paper segments scenes; the segment with most of the image's border is the background, each other one a mask."""
    colour_weight: float = Field(10.0, ge=0)
    """λ, the weight of the affinity of colours and positions beside that of features. 10: the paper. 0: features alone, what the
    published program does unless told otherwise."""
    colour_neighbours: int = Field(20, ge=1)
    """Nearest neighbours in colour and position that each patch is tied to, itself included; the paper does not say how many. The
    tables that the program comes with take 20."""
    eigenvectors: int = Field(15, ge=2)
    """With segments: many, how many eigenvectors are computed, the constant one included; k-means sees all others."""
    clusters: Literal["eigengap"] | Annotated[int, Field(ge=2)] = 15
    """With segments: many, how many segments an image has, background included. eigengap: as many as there are eigenvalues below
    their largest gap, at least 2 (the paper's adaptive choice). The published program's own default is 4."""
    component: Literal["largest", "all"] = "largest"
    """largest: of each mask its largest 8-connected part is kept, as in the paper's localisation. all: everything, as in its
    segmentation."""
    crf: bool = False
    """Move the borders to those of the image with a dense CRF, as the paper does where it segments; its constants are published ones."""
