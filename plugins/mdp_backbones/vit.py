"""The ViT reader: queries, keys, values and tokens of any block of a Vision Transformer, and one vector an image.

Reads ``timm``'s ``VisionTransformer`` (https://arxiv.org/abs/2010.11929; DINO, DINOv2, iBOT, MAE, MoCo-v3, DeiT, supervised)
and ``Eva`` (DINOv3, EVA-02 and other networks with rotary positions) at any image size that is a multiple of the patch.
Tokens and blocks are computed as timm's own forward does, and only as far as is needed: of the block that is read, the
projections asked for, and neither its attention nor its MLP unless its tokens are wanted.

Learnt positions are resampled bicubically to the grid of the image. Networks without registers do it without antialiasing, as
DINO and DINOv2 were published; networks with registers and all of ``Eva`` with it, as DINOv2 with registers and timm do. Rotary
positions are made for the grid by the network itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mdp_backbones.attention import Facet, is_readable, read_projections
from mdp_backbones.positions import Positions, resample_positions
from mdp_backbones.preprocess import IMAGENET, Normalisation
from mdp_core.api import StageError, WeightsError

Grid = tuple[int, int]
"""(rows, columns) of patches."""
Precision = Literal["fp32", "bf16", "fp16"]
"""Type of weights and activations; results are float32 always."""
_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PREFIX = ("cls_token", "dist_token", "reg_token")
_TRY = "use a timm vit_*, deit_* or eva* model, for example vit_small_patch16_224.dino or vit_small_patch16_dinov3"


@dataclass(frozen=True)
class Tokens:
    """One facet of all tokens.

    Attributes:
        patches: float32 (B, N, width), patches in row-major order, heads concatenated.
        prefix: float32 (B, P, width): CLS first, if there is one, then registers. P may be 0.
    """

    patches: Tensor
    prefix: Tensor


@dataclass(frozen=True)
class Facets:
    """What was read of one block; ``facets["k"].patches`` are the keys of the patches.

    Attributes:
        values: Facet → its tokens.
        grid: (rows, columns) with rows · columns = N.
        heads: Number of attention heads of the block.
    """

    values: Mapping[Facet, Tokens]
    grid: Grid
    heads: int

    def __getitem__(self, facet: Facet) -> Tokens:
        return self.values[facet]


@dataclass(frozen=True)
class LastBlock:
    """What the last self-attention block is about to compare (without rotary positions).

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


class VitReader:
    """Reads features from a ViT.

    Args:
        model: A ``timm`` VisionTransformer or Eva made with ``dynamic_img_size=True``, in eval mode. Its weights are cast to
            the precision in place.
        normalisation: Of the pixels that the network was trained with; ``to_input`` takes it.
        precision: Type of weights and activations.
        positions: How learnt positions are resampled (``resample_positions``); nothing to networks without.

    Attributes:
        patch: Side of a patch in pixels.
        multiple: Sides of images must be multiples of it (the patch).
        dim: Width of the tokens.
        heads: Number of attention heads of the last block.
        depth: Number of blocks.
        has_cls: Whether there is a CLS token.

    Raises:
        WeightsError: The model is no ViT that can be read.
    """

    def __init__(
        self,
        model: nn.Module,
        normalisation: Normalisation = IMAGENET,
        precision: Precision = "fp32",
        positions: Positions = "size",
    ) -> None:
        _check(model)
        self.model = model.to(dtype=_DTYPES[precision])
        self.normalisation = normalisation
        self.precision = precision
        self.positions: Positions = positions
        self.patch = self.multiple = _sides(model.patch_embed)[0]
        self.dim = int(model.embed_dim)
        self.heads = int(model.blocks[-1].attn.num_heads)
        self.depth = len(model.blocks)
        self.has_cls = model.cls_token is not None
        self._prefix = int(model.num_prefix_tokens)
        self._antialias = isinstance(model, Eva) or model.reg_token is not None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def read(self, pixels: Tensor, block: int = -1, facets: Sequence[Facet] = ("k",)) -> Facets:
        """Reads facets of one block; the forward stops there.

        Args:
            pixels: float32 (B, 3, H, W), normalised; H and W multiples of the patch.
            block: Index of the block; negative ones count from the end.
            facets: What to read. Each is (B, N, heads · head_dim), tokens are (B, N, dim). Keys and values that several heads
                share (grouped queries) are repeated for each of them. Nothing is scaled by 1/√d.

        Raises:
            StageError: There is no such block, or H or W is no multiple of the patch, or fp16 overflows.
        """
        if not -self.depth <= block < self.depth:
            raise StageError(f"there is no block {block} in a network of {self.depth}", hint="count from 0, or back from -1")
        index = block % self.depth
        tokens, grid, rotary = self._embed_patches(pixels)
        for earlier in range(index):
            tokens = self._run(earlier, tokens, rotary)
        here, projections = self.model.blocks[index], [facet for facet in facets if facet != "tokens"]
        values = read_projections(here, tokens, self._rotary_of(index, rotary), projections) if projections else {}
        if "tokens" in facets:
            values["tokens"] = self._run(index, tokens, rotary)
        return Facets({facet: self._split(values[facet]) for facet in facets}, grid, int(here.attn.num_heads))

    def last_block(self, pixels: Tensor) -> LastBlock:
        """Reads the last block's keys and CLS query of pixels as in ``read``; WeightsError if there is no CLS token."""
        self.require_cls()
        facets = self.read(pixels, facets=("q", "k"))
        return LastBlock(facets["k"].patches, facets["q"].prefix[:, 0], facets.grid, facets.heads)

    @torch.inference_mode()
    def embed(self, pixels: Tensor) -> Tensor:
        """Makes one vector an image: CLS after the final norm, or the mean of the patches in a network without CLS.

        Args:
            pixels: float32 (B, 3, H, W), normalised; H and W multiples of the patch.

        Returns:
            float32 (B, dim); normed after pooling where the network does that (``fc_norm``).
        """
        tokens, _, rotary = self._embed_patches(pixels)
        for index in range(self.depth):
            tokens = self._run(index, tokens, rotary)
        pooled = tokens[:, :1] if self.has_cls else tokens[:, self._prefix :]
        return self._result(self.model.fc_norm(self.model.norm(pooled).mean(dim=1)))

    def require_cls(self) -> None:
        """Raises WeightsError if the network has no CLS token."""
        if not self.has_cls:
            raise WeightsError(
                f"this {type(self.model).__name__} has no CLS token, and the CLS token's attention is needed",
                hint="use weights of a network with a CLS token, for example timm:vit_small_patch16_224.dino",
            )

    def _embed_patches(self, pixels: Tensor) -> tuple[Tensor, Grid, Tensor | None]:
        """Returns what enters the first block, (B, P + N, dim), the grid, and rotary positions if the network has them."""
        model = self.model
        height, width = pixels.shape[-2:]
        if height % self.patch or width % self.patch:
            raise StageError(
                f"{height} × {width} pixels are no multiple of the patch, {self.patch}", hint="pad them first: pad_to_multiple"
            )
        patches = model.patch_embed(pixels.to(_DTYPES[self.precision]))
        batch, rows, columns, _ = patches.shape
        patches = patches.flatten(1, 2)
        prefix = [token.expand(batch, -1, -1) for name in _PREFIX if (token := getattr(model, name, None)) is not None]
        positions = self._positions((rows, columns))
        if positions is None:
            tokens = torch.cat([*prefix, patches], dim=1)
        elif model.no_embed_class:
            tokens = torch.cat([*prefix, patches + positions], dim=1)
        else:
            tokens = torch.cat([*prefix, patches], dim=1) + positions
        rope = getattr(model, "rope", None)
        return model.norm_pre(tokens), (rows, columns), None if rope is None else rope.get_embed(shape=[rows, columns])

    def _positions(self, grid: Grid) -> Tensor | None:
        if (learnt := self.model.pos_embed) is None:
            return None
        old, prefix = self.model.patch_embed.grid_size, 0 if self.model.no_embed_class else self._prefix
        return resample_positions(learnt, old, grid, prefix, antialias=self._antialias, rule=self.positions)

    def _run(self, index: int, tokens: Tensor, rotary: Tensor | None) -> Tensor:
        block = self.model.blocks[index]
        return block(tokens) if rotary is None else block(tokens, rope=self._rotary_of(index, rotary))

    def _rotary_of(self, index: int, rotary: Tensor | None) -> Tensor | None:
        """Mixed rotary positions are learnt for each block; all others are the same for every block."""
        return rotary[index] if rotary is not None and self.model.rope_mixed else rotary

    def _split(self, values: Tensor) -> Tokens:
        values = self._result(values)
        return Tokens(patches=values[:, self._prefix :], prefix=values[:, : self._prefix])

    def _result(self, values: Tensor) -> Tensor:
        if self.precision == "fp16" and not values.isfinite().all():
            raise StageError("features of this network overflow in fp16", hint="set precision: bf16 or fp32")
        return values.float()


def _check(model: nn.Module) -> None:
    name = type(model).__name__
    if not isinstance(model, VisionTransformer | Eva):
        raise WeightsError(f"{name} is not a Vision Transformer", hint=_TRY)
    if not model.dynamic_img_size:
        raise WeightsError(f"this {name} takes images of one size only", hint="create it with dynamic_img_size=True")
    for block in model.blocks:
        if not is_readable(block):
            raise WeightsError(f"queries and keys of {type(block).__name__} cannot be read", hint=_TRY)
    if len(set(_sides(model.patch_embed))) > 1:
        raise WeightsError(f"the patches of this {name} are not square", hint=_TRY)


def _sides(patch_embed: nn.Module) -> tuple[int, int]:
    """Returns the height and width of a patch in pixels, also of stems that shrink the image before they cut it."""
    sides = patch_embed.feat_ratio(as_scalar=False) if hasattr(patch_embed, "feat_ratio") else patch_embed.patch_size
    return (sides, sides) if isinstance(sides, int) else (int(sides[0]), int(sides[1]))
