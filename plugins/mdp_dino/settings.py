"""Settings of the ViT priors."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mdp_core.api import NoEffect, StageConfig, WeightsRef


class DinoAffinityConfig(StageConfig):
    """Settings of ``dino-affinity``; the defaults are the paper's (§3.2 and A.1)."""

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
    """Share of the patches, those most attended by CLS, that may become proposals."""
    component: Literal["source", "all"] = "source"
    """source: keep only the 4-connected part that holds the source patch; all: every positive patch, as Eq. 2 is printed."""
    centre_keys: bool = False
    """Subtract the image's mean key (or whatever facet says) first. Networks whose keys all point one way (untrained ones) need
    it."""
    balance: int = Field(0, ge=0, le=20)
    """Rounds in which zero affinity is moved halfway between the mean feature of the mask and that of the rest. An image's mean
    lies nearer to what covers more of it, mostly the background, so that masks with centred keys reach beyond the object's edge;
    one to three rounds take that back. 0: the paper's rule."""
    batch: Annotated[int, NoEffect] = Field(8, ge=1)
    """Images of equal size that go through the network together."""
