"""Queries, keys and values of one block, as ``timm``'s attention modules make them.

Covers joint and separate projections, biases apart from them, norms of queries and keys, keys shared by several queries, and
rotary positions (https://arxiv.org/abs/2104.09864).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from timm.layers import Attention, AttentionRope, apply_rot_embed_cat
from timm.models.eva import EvaAttention, EvaBlockPostNorm
from timm.models.vision_transformer import ResPostBlock
from torch import Tensor, nn
from torch.nn import functional

Facet = Literal["q", "k", "v", "tokens", "q_rotary", "k_rotary"]
"""What can be read of a block. q, k, v: the projections, after the norms of q and k if there are any, before rotary positions,
so that the keys of two equal patches are equal wherever they lie. q_rotary, k_rotary: after them, as attention compares them
(without rotary positions the same as q and k). tokens: what the block puts out, before the final norm."""


def is_readable(block: nn.Module) -> bool:
    """Says whether ``read_projections`` knows this block's attention."""
    return isinstance(getattr(block, "attn", None), Attention | EvaAttention | AttentionRope)


def read_projections(block: nn.Module, tokens: Tensor, rotary: Tensor | None, facets: Sequence[Facet]) -> dict[Facet, Tensor]:
    """Computes queries, keys and values of a block, and nothing else of it.

    Args:
        block: A readable block.
        tokens: float (B, P + N, dim), what enters the block.
        rotary: float (N, 2 · head_dim) or (heads, N, 2 · head_dim), sines and cosines; None where there are none.
        facets: Which; not tokens.

    Returns:
        float (B, P + N, num_heads · head_dim) each, heads side by side; heads that several queries share are repeated.
    """
    attention = block.attn
    inputs = tokens if isinstance(block, ResPostBlock | EvaBlockPostNorm) else block.norm1(tokens)
    heads = {letter: _heads(attention, letter, inputs) for letter in {facet[0] for facet in facets}}
    values = {}
    for facet in facets:
        turned = rotary is not None and facet.endswith("_rotary")
        values[facet] = _concatenated(attention, _rotated(attention, heads[facet[0]], rotary) if turned else heads[facet[0]])
    return values


def _heads(attention: nn.Module, letter: str, tokens: Tensor) -> Tensor:
    """Projects (B, n, dim) to q, k or v, (B, heads, n, head_dim), queries and keys normed if the network does that."""
    which = "qkv".index(letter)
    if attention.qkv is None:
        projected = (attention.q_proj, attention.k_proj, attention.v_proj)[which](tokens)
    else:
        weight, bias = attention.qkv.weight.chunk(3)[which], attention.qkv.bias
        if bias is not None:
            bias = bias.chunk(3)[which]
        elif getattr(attention, "q_bias", None) is not None:
            bias = (attention.q_bias, attention.k_bias, attention.v_bias)[which]
        projected = functional.linear(tokens, weight, bias)
    heads = projected.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    return (attention.q_norm, attention.k_norm, nn.Identity())[which](heads)


def _rotated(attention: nn.Module, heads: Tensor, rotary: Tensor) -> Tensor:
    """Turns the patches of (B, heads, P + N, head_dim) by their positions; the prefix stays as it is."""
    prefix, patches = heads.split([attention.num_prefix_tokens, heads.shape[2] - attention.num_prefix_tokens], dim=2)
    return torch.cat([prefix, apply_rot_embed_cat(patches, rotary, half=attention.rotate_half)], dim=2)


def _concatenated(attention: nn.Module, heads: Tensor) -> Tensor:
    """(B, heads, n, head_dim) → (B, n, num_heads · head_dim)."""
    repeats = attention.num_heads // heads.shape[1]
    return (heads.repeat_interleave(repeats, dim=1) if repeats > 1 else heads).transpose(1, 2).flatten(2)
