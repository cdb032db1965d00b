"""Prior ``dino-attention``: the patches that CLS attends to most (DINO), the baseline of MaskDistill (A.4).

Caron et al., "Emerging properties in self-supervised vision transformers" (ICCV 2021), segment with the last block's attention:

1. a = softmax(q_CLS · k / √d) over all tokens of a head, of which those of the patches are kept;
2. the mask holds the patches of largest a that together have the share ``mass`` of its sum.

DINO does this for each head; MaskDistill first sums the heads, and takes ``mass: 0.75``. LOST's baseline, "DINO-seg", takes one
head, ``mass: 0.6`` and the largest connected component: ``heads: 4``, ``components: 1``.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdp_backbones.attention import Facet
from mdp_core.api import Bitmap, StageError
from mdp_dino.components import largest_components
from mdp_dino.patches import Grouping, Patches, PatchPrior
from mdp_dino.settings.attention import DinoAttentionConfig

EVEN = 1e-5
"""Attention is even where it varies by less than this share of its largest value, which rounding does too."""


class DinoAttention(PatchPrior[DinoAttentionConfig]):
    """Takes what CLS attends to for the object."""

    Config = DinoAttentionConfig
    needs_cls = True

    @property
    def facets(self) -> tuple[Facet, ...]:
        """What attention compares."""
        return ("q_rotary", "k_rotary")

    def group(self, patches: Patches) -> Grouping:
        """Returns one mask, or one for each of the largest components; scores are margins of attention (``margin``).

        There is no object where the image has one colour, where attention is even, and where no patch is left outside.
        """
        attention = chosen(attention_to_patches(patches), self.config.heads)
        mask = largest_of_mass(attention, self.config.mass)
        nothing = Grouping.nothing(patches.grid, patches.patch)
        if patches.plain or mask.all() or attention.max() - attention.min() <= EVEN * attention.max():
            return nothing
        grid, values = (each.cpu().numpy().reshape(patches.grid) for each in (mask, attention))
        masks = grid[None] if self.config.components is None else largest_components(grid, self.config.components)
        scores = np.array([margin(values, one) for one in masks], np.float32)
        order = np.argsort(-scores, kind="stable")
        return Grouping(masks[order], scores[order], patches.patch)


def attention_to_patches(patches: Patches) -> Tensor:
    """Returns the CLS token's attention to patches, float (heads, N); what goes to CLS itself and to registers is missing from it."""
    prefix, query = patches.prefix["k_rotary"], patches.prefix["q_rotary"][0]
    keys = torch.cat([prefix, patches.values["k_rotary"]])
    return attention_of_cls(query, keys, patches.heads)[:, len(prefix) :]


@torch.inference_mode()
def attention_of_cls(query: Tensor, keys: Tensor, heads: int) -> Tensor:
    """Computes the CLS token's attention, head by head.

    Args:
        query: float (heads · d,), of the CLS token, heads concatenated.
        keys: float (T, heads · d), of all tokens: CLS and registers are among those that attention is shared between.
        heads: Number of heads.

    Returns:
        float (heads, T), rows that sum to 1.
    """
    query, keys = query.unflatten(-1, (heads, -1)), keys.unflatten(-1, (heads, -1))
    logits = torch.einsum("hd,thd->ht", query, keys) / query.shape[-1] ** 0.5
    return logits.softmax(dim=-1)


def chosen(attention: Tensor, heads: int | str) -> Tensor:
    """Returns the sum of the heads of (heads, N), or the one with the number ``heads``: (N,).

    Raises:
        StageError: There is no such head.
    """
    if isinstance(heads, str):
        return attention.sum(dim=0)
    if heads >= len(attention):
        raise StageError(
            f"there is no head {heads} in a block of {len(attention)}", hint=f"set heads: sum, or 0 to {len(attention) - 1}"
        )
    return attention[heads]


@torch.inference_mode()
def largest_of_mass(attention: Tensor, mass: float) -> Tensor:
    """Finds the patches with the most attention that together hold the share ``mass`` of it.

    A patch belongs where all patches up to it, from the least attended on, have more than the share 1 - mass: the mask has the
    first patch that fills up the mass, and so holds a little more than it.

    Args:
        attention: float (N,), at least 0. Of equal values at the cut, those with the higher index belong.
        mass: In (0, 1).

    Returns:
        bool (N,); nothing where all attention is 0.
    """
    ascending, order = torch.sort(attention.double(), stable=True)
    below = ascending.cumsum(dim=0)
    kept = order[below > (1 - mass) * below[-1]]
    return torch.zeros_like(attention, dtype=torch.bool).index_fill(0, kept, True)


def margin(attention: NDArray[np.float32], mask: Bitmap) -> float:
    """Returns the contrast (i - o) / (i + o) of the mean attention inside and outside of a mask that is not everything.

    0: the mask is not attended to more than the rest; 1: nothing else is attended to.
    """
    inside, outside = float(attention[mask].mean()), float(attention[~mask].mean())
    return max(0.0, (inside - outside) / (inside + outside))
