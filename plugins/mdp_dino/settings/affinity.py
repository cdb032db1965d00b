"""Settings of the ViT priors."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mdp_core.api import NoEffect, StageConfig, WeightsRef


class DinoAffinityConfig(StageConfig):
    """Settings of ``dino-affinity``; the defaults are the paper's (§3.2 and A.1).

    The authors' program differs: ``heads: 5``, ``cls_mass: 0.5``, ``padding: zeros``, ``positions: scale-factor``,
    ``upsample: bicubic-any``, ``outline: polygon``.
    """

    seeded_steps: ClassVar[tuple[str, ...]] = ()

    weights: WeightsRef = "timm:vit_small_patch16_224.dino"
    """The ViT: timm:NAME, file:PATH (needs arch where the file does not say it) or builtin:NAME (builtin:random is untrained; for
    trials, together with centre_keys)."""
    arch: str | None = None
    """timm architecture of file: weights, for example vit_small_patch16_224.dino."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type of the network's weights and activations. bf16 and fp16 are faster on a GPU and change masks slightly."""
    block: int = -1
    """Block of the network whose CLS query and keys are read; negative numbers count from the end."""
    facet: Literal["k", "q", "v", "tokens"] = "k"
    """What affinities compare: keys (the paper), queries, values or the block's output. What CLS attends to is always told by
    its query and the keys."""
    short_side: int = Field(640, ge=16)
    """Images are resized to this shorter side, in pixels, before the ViT sees them."""
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
    padding: Literal["edge", "zeros"] = "edge"
    """What fills up the last patches on the right and at the bottom: copies of the image's edge, or zeros after normalisation, as
    in the authors' program. The paper does not say."""
    positions: Literal["size", "scale-factor"] = "size"
    """How learnt positions are resampled to the image's grid of patches: size stretches them over it; scale-factor does it as
    DINO's own code and the authors' program, which moves them by up to a tenth of a patch. Networks without learnt positions
    are not affected."""
    upsample: Literal["nearest", "bicubic-any"] = "nearest"
    """From patches to pixels. nearest: each pixel takes the nearest patch; bicubic-any: as in the authors' program, nearest to the
    resized image, bicubic to the image itself, and all that is not exactly zero then belongs to the mask, which grows by
    about a pixel on each side."""
    outline: Literal["exact", "filled", "polygon"] = "exact"
    """exact: the mask as it is; filled: holes are filled; polygon: the mask goes through COCO polygons (contours at 0.5, simplified
    to within 2 pixels, holes as polygons of their own) and back, as in the authors' program, which fills holes and cuts corners.
    The box of a mask is that of its pixels before."""
    centre_keys: bool = False
    """Subtract the image's mean key (or whatever facet says) first. Networks whose keys all point one way (untrained ones) need
    it."""
    balance: int = Field(0, ge=0, le=20)
    """Rounds in which zero affinity is moved halfway between the mean feature of the mask and that of the rest. An image's mean
    lies nearer to what covers more of it, mostly the background, so that masks with centred keys reach beyond the object's edge;
    one to three rounds take that back. 0: the paper's rule."""
    batch: Annotated[int, NoEffect] = Field(8, ge=1)
    """Images of equal size that go through the network together."""
