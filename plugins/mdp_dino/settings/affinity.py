"""Settings of ``dino-affinity``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mdp_dino.settings.vit import VitAffinityConfig


class DinoAffinityConfig(VitAffinityConfig):
    """Settings of ``dino-affinity``; the defaults are the paper's (§3.2 and A.1).

    The authors' program differs: ``heads: 5``, ``cls_mass: 0.5``, ``padding: zeros``, ``positions: scale-factor``,
    ``upsample: bicubic-any``, ``outline: polygon``.
    """

    cache_version: ClassVar[int] = 2

    topk: float = Field(0.4, gt=0, le=1)
    """Share of the patches, those most attended by CLS, that may become proposals: ⌊topk · patches⌋ of them, at least one."""
    heads: Literal["all"] | Annotated[int, Field(ge=1)] = "all"
    """Heads that a_CLS (Eq. 1) is averaged over, which decides source and proposals: all, as the paper says, or the first few; the
    authors' program takes the first 5 of 6. Affinities between patches (Eq. 2) always take all."""
    cls_mass: float | None = Field(None, gt=0, lt=1)
    """Share of the sum of a_CLS whose patches keep their value, the largest ones; all others are set to zero before the top k are
    taken, and of equal values the patch with the lower index comes first. null: no such gate, as in the paper. 0.5: the authors'
    program, which does it to raw logits of any sign, so that what comes out depends on their mean."""
    component: Literal["source", "all"] = "source"
    """source: keep only the 4-connected part that holds the source patch, as the authors' program does; all: every positive patch, as
    Eq. 2 is printed."""
    upsample: Literal["nearest", "bicubic-any"] = "nearest"
    """From patches to pixels. nearest: each pixel takes the nearest patch; bicubic-any: as in the authors' program, nearest to the
    resized image, bicubic to the image itself, and all that is not exactly zero then belongs to the mask, which grows by
    about a pixel on each side."""
    outline: Literal["exact", "filled", "polygon"] = "exact"
    """exact: the mask as it is; filled: holes are filled; polygon: the mask goes through COCO polygons (contours at 0.5, simplified
    to within 2 pixels, holes as polygons of their own) and back, as in the authors' program, which fills holes and cuts corners.
    The box of a mask is that of its pixels before."""
    balance: int = Field(0, ge=0, le=20)
    """Rounds in which zero affinity is moved halfway between the mean feature of the mask and that of the rest. An image's mean
    lies nearer to what covers more of it, mostly the background, so that masks with centred keys reach beyond the object's edge;
    one to three rounds take that back. 0: the paper's rule."""
    masks: int = Field(1, ge=1)
    """Masks an image at most. For each one after the first the method is repeated on the patches that no mask covers: source, proposals
    (⌊topk · uncovered⌋), affinities and centring among those alone, so that a mask never overlaps an earlier one. It ends where
    a mask scores below min_score, where none is found, or by ``uncovered``. 1: the paper's."""
    uncovered: float = Field(0.1, ge=0, le=1)
    """Share of the patches that has to be uncovered for another mask to be looked for."""
    scales: tuple[Annotated[float, Field(gt=0, le=8)], ...] = Field((1.0,), min_length=1)
    """Sizes at which the ViT reads each image, relative to short_side; affinities are averaged over them (the paper's first
    direction of future work). The grid of patches is that of scale 1, also where 1 is not among them. Features of each of several
    scales are divided by the root mean square of their norms, so that all have the same say."""
