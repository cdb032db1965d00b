"""Features of a Vision Transformer: keys and the CLS query of the last block, and the final CLS token.

Works on ``timm``'s ``VisionTransformer`` (https://arxiv.org/abs/2010.11929) at any image size that is a multiple of the patch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from mdp_core.api import WeightsError

Grid = tuple[int, int]
"""(rows, columns) of patches."""


@dataclass(frozen=True)
class LastBlock:
    """What the last self-attention block is about to compare.

    Attributes:
        keys: float32 (B, N, heads · head_dim), keys of the patch tokens in row-major order, heads concatenated.
        query: float32 (B, heads · head_dim), query of the CLS token, heads concatenated.
        grid: (rows, columns) with rows · columns = N.
        heads: Number of attention heads.
    """

    keys: Tensor
    query: Tensor
    grid: Grid
    heads: int


class VitFeatures:
    """Reads features from a ViT.

    Args:
        model: A ``timm`` VisionTransformer made with ``dynamic_img_size=True``, in eval mode.

    Raises:
        WeightsError: The model is no plain ViT with a CLS token and a joint qkv projection.
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, VisionTransformer) or model.cls_token is None:
            raise WeightsError(
                f"{type(model).__name__} is not a Vision Transformer with a CLS token",
                hint="use a timm vit_* or deit_* model, for example vit_small_patch16_224.dino",
            )
        if not hasattr(model.blocks[-1], "attn") or not hasattr(model.blocks[-1].attn, "qkv"):
            raise WeightsError(
                f"the last block of this ViT ({type(model.blocks[-1]).__name__}) has no joint qkv projection",
                hint="use a ViT with ordinary blocks, for example vit_small_patch16_224.dino",
            )
        self.model = model
        self.patch = int(model.patch_embed.patch_size[0])
        self.dim = int(model.embed_dim)
        self._positions: dict[Grid, Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.cls_token.device

    @torch.inference_mode()
    def last_block(self, pixels: Tensor) -> LastBlock:
        """Computes the last block's keys and CLS query; its attention, projection and MLP are not run.

        Args:
            pixels: float32 (B, 3, H, W), normalised; H and W multiples of the patch size.

        Returns:
            Keys of the N = (H / patch) · (W / patch) patches and the query of CLS, unscaled (no 1/√d).
        """
        tokens, grid = self._tokens(pixels)
        for block in self.model.blocks[:-1]:
            tokens = block(tokens)
        last = self.model.blocks[-1]
        tokens = last.norm1(tokens)
        attention, prefix = last.attn, self.model.num_prefix_tokens
        width = attention.num_heads * attention.head_dim
        weight, bias = attention.qkv.weight, attention.qkv.bias
        query = functional.linear(tokens[:, 0], weight[:width], None if bias is None else bias[:width])
        keys = functional.linear(
            tokens[:, prefix:], weight[width : 2 * width], None if bias is None else bias[width : 2 * width]
        )
        per_head = (attention.num_heads, attention.head_dim)
        return LastBlock(
            keys=attention.k_norm(keys.unflatten(-1, per_head)).flatten(-2),
            query=attention.q_norm(query.unflatten(-1, per_head)).flatten(-2),
            grid=grid,
            heads=attention.num_heads,
        )

    @torch.inference_mode()
    def cls(self, pixels: Tensor) -> Tensor:
        """Computes the CLS token after the final norm: float32 (B, dim) of float32 (B, 3, H, W) normalised pixels."""
        tokens, _ = self._tokens(pixels)
        return self.model.norm(self.model.blocks(tokens)[:, 0])

    def _tokens(self, pixels: Tensor) -> tuple[Tensor, Grid]:
        """Embeds patches, adds positions and prefix tokens: (B, prefix + N, dim), and the grid."""
        model = self.model
        patches = model.patch_embed(pixels)
        batch, rows, columns, _ = patches.shape
        patches = patches.flatten(1, 2)
        prefix = model.cls_token if model.reg_token is None else torch.cat([model.cls_token, model.reg_token], dim=1)
        if model.pos_embed is not None:
            positions = self._position_grid((rows, columns))
            patches = patches + positions
            if not model.no_embed_class:
                prefix = prefix + model.pos_embed[:, : model.num_prefix_tokens]
        tokens = torch.cat([prefix.expand(batch, -1, -1), patches], dim=1)
        return model.norm_pre(tokens), (rows, columns)

    def _position_grid(self, grid: Grid) -> Tensor:
        if grid not in self._positions:
            first = 0 if self.model.no_embed_class else self.model.num_prefix_tokens
            native = (int(self.model.patch_embed.grid_size[0]), int(self.model.patch_embed.grid_size[1]))
            self._positions[grid] = interpolate_positions(self.model.pos_embed[:, first:], native, grid)
        return self._positions[grid]


def interpolate_positions(positions: Tensor, native: Grid, grid: Grid) -> Tensor:
    """Resamples a learnt positional embedding to another grid of patches.

    Bicubic, by target size, ``align_corners=False``, without antialiasing: the values at the native size stay untouched.

    Args:
        positions: float32 (1, rows · columns of ``native``, dim), without prefix tokens.
        native: The grid that the embedding was trained for.
        grid: The grid wanted.

    Returns:
        float32 (1, rows · columns of ``grid``, dim).
    """
    if grid == native:
        return positions
    image = positions.unflatten(1, native).permute(0, 3, 1, 2)
    resized = functional.interpolate(image, size=grid, mode="bicubic", align_corners=False, antialias=False)
    return resized.permute(0, 2, 3, 1).flatten(1, 2)
