"""``mdp_vit_tiny``: a ViT for a CPU, 0.9 million parameters, patch 8, with three strided convolutions in front.

A convolutional stem in place of one linear map of pixels lets a small ViT learn from far fewer images (Xiao et al. 2021,
"Early convolutions help transformers see better", https://arxiv.org/abs/2106.14881). The stem first brings each image to mean 0
and standard deviation 1, over all its pixels and channels: contrast and lighting of the scene are then no news.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

PATCH = 8
DIM, DEPTH, HEADS = 128, 4, 4
WIDTHS = (24, 48, 96)
"""Channels after each convolution of the stem; each halves the sides."""
FAINTEST = 1e-2
"""Added to an image's standard deviation, in units of the normalised pixels: plain images do not become noise."""


class ConvStem(nn.Module):
    """A patch embedding of strided convolutions with BatchNorm, as timm's networks expect it.

    Args:
        img_size: Side of the images that positions are made for, in pixels.
        patch_size: 8; three halvings.
        in_chans: Channels of the images.
        embed_dim: Width of a token.
        **_: What timm says to its own patch embedding; tokens always come as a grid.
    """

    def __init__(self, img_size: int = 64, patch_size: int = PATCH, in_chans: int = 3, embed_dim: int = DIM, **_: Any) -> None:
        super().__init__()
        if patch_size != 2 ** len(WIDTHS):
            raise ValueError(f"the stem of mdp_vit_tiny halves the image {len(WIDTHS)} times: its patch is {2 ** len(WIDTHS)}")
        self.patch_size = (patch_size, patch_size)
        self.img_size = (img_size, img_size)
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        layers: list[nn.Module] = []
        for before, after in zip((in_chans, *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.GELU()]
        self.convs = nn.Sequential(*layers)
        self.proj = nn.Conv2d(WIDTHS[-1], embed_dim, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Float (B, 3, H, W), H and W multiples of 8, to tokens (B, H / 8, W / 8, dim)."""
        mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
        std = pixels.flatten(1).std(dim=1)[:, None, None, None]
        return self.proj(self.convs((pixels - mean) / (std + FAINTEST))).permute(0, 2, 3, 1)


@register_model
def mdp_vit_tiny(pretrained: bool = False, **settings: Any) -> VisionTransformer:
    """Builds the network; positions are made for ``img_size`` (64) and interpolated for others."""
    if pretrained:
        raise RuntimeError("mdp_vit_tiny has no weights in timm: write weights: builtin:tiny")
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        settings.pop(name, None)
    shape = {"img_size": 64, "embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS, "dynamic_img_size": True}
    return VisionTransformer(patch_size=PATCH, embed_layer=ConvStem, **{**shape, **settings})


@torch.no_grad()
def calibrate(network: nn.Module, batches: list[Tensor]) -> None:
    """Measures the statistics of a network's BatchNorms anew, as means over batches of the images that it shall see.

    Training leaves averages over changed views, and an untrained network has none at all.

    Args:
        network: Left in evaluation mode.
        batches: float (B, 3, H, W) each, normalised.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    network.eval()
    if not norms or not batches:
        return
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over batches
        norm.train()
    for batch in batches:
        network(batch)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
        norm.eval()
