"""Prior ``lost``: the patch with the fewest friends, and what is like it (LOST).

Siméoni et al., "Localizing objects with self-supervised transformers and no labels" (BMVC 2021). The affinity of two patches is
the dot product of their features, A = F Fᵀ, and friends have a positive one. An object covers less of an image than the background
does, so its patches have the fewest friends:

1. the seed p* is the patch of lowest degree d_p = |{q ≠ p : f_pᵀ f_q > 0}|;
2. it is expanded to S, those of the ``expand`` patches of lowest degree that are its friends (and itself);
3. the mask holds each patch q with Σ_{s∈S} f_qᵀ f_s > 0, as far as it is 4-connected with the seed.

Only the degree needs all of A, and only its signs: they are counted a block of rows at a time. All else is O(N · d).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mdp_dino.components import component_of
from mdp_dino.patches import Grouping, Patches, PatchPrior
from mdp_dino.settings.lost import LostConfig

BLOCK = 1 << 22
"""Affinities held at a time: 16 MiB."""


class Lost(PatchPrior[LostConfig]):
    """Finds the object whose patches resemble the fewest others."""

    Config = LostConfig

    def group(self, patches: Patches) -> Grouping:
        """Returns one mask; its score is the share of the other patches that are no friends of the seed.

        There is no object where the image has one colour, where all patches are friends (the score would be 0, and the mask
        everything), and where the seed's feature is zero.
        """
        features = patches.features(self.config.facet, centred=self.config.centre_keys)
        nothing = Grouping.nothing(patches.grid, patches.patch)
        degree = degrees(features)
        found = seeded(features, degree, self.config.expand)
        others = len(features) - 1
        if patches.plain or found.friends == others:
            return nothing
        mask = component_of(found.mask.cpu().numpy().reshape(patches.grid), divmod(found.seed, patches.grid[1]))
        if not mask.any():
            return nothing
        return Grouping(mask[None], np.array([1 - found.friends / others], np.float32), patches.patch)


@dataclass(frozen=True)
class Seeded:
    """What grew from a seed.

    Attributes:
        seed: Index of the seed p*.
        friends: Its degree.
        mask: bool (N,), the patches whose affinities with S sum up to more than 0.
    """

    seed: int
    friends: int
    mask: Tensor


@torch.inference_mode()
def seeded(features: Tensor, degree: Tensor, expand: int) -> Seeded:
    """Picks the seed and expands it (§3.2). Of equal degrees the patch with the lower index comes first.

    Args:
        features: float (N, d).
        degree: int (N,).
        expand: How many patches of lowest degree may join the seed, at least 1; the seed is one of them.
    """
    lowest = torch.argsort(degree, stable=True)[:expand]
    seed = int(lowest[0])
    similar = lowest[features[lowest] @ features[seed] > 0]  # S
    mask = features @ features[similar].sum(dim=0) > 0  # Σ_{s∈S} f_qᵀ f_s = f_qᵀ Σ_{s∈S} f_s
    return Seeded(seed, int(degree[seed]), mask)


@torch.inference_mode()
def degrees(features: Tensor, block: int = BLOCK) -> Tensor:
    """Counts each patch's friends (Eq. 2) without holding A.

    Args:
        features: float (N, d).
        block: Affinities held at a time; at least one row of them is.

    Returns:
        int64 (N,), for each patch the number of others whose dot product with it is positive.
    """
    rows = max(1, block // len(features))
    counts = torch.empty(len(features), dtype=torch.int64, device=features.device)
    for start in range(0, len(features), rows):
        friends = features[start : start + rows] @ features.T > 0
        friends.diagonal(start).fill_(False)
        counts[start : start + rows] = friends.sum(dim=1)
    return counts
