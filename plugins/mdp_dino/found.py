"""Prior ``found``: everything that is not like the least attended patch.

Siméoni, Sekkat, Puy, Vobecký, Zablocki and Pérez, "Unsupervised Object Localization: Observing the Background to Discover Objects",
CVPR 2023, https://arxiv.org/abs/2212.07834: the first step (§3.1 and, with ``refine``, the target of §3.2). The student that the
paper trains next is left out: later stages of the pipeline learn from masks.

What is not background is the object, of which nothing is assumed: no size, no number, no contrast.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from mdp_backbones.attention import Facet
from mdp_core.api import Bitmap, Pixels
from mdp_dino.attention import attention_to_patches
from mdp_dino.cells import coverage, enlarged
from mdp_dino.components import largest_components
from mdp_dino.patches import Grouping, Patches, PatchPrior
from mdp_dino.settings.found import FoundConfig

NEVER = 1e-10
"""Added to the share of patches that a head attends to, so that a head that attends to none has a weight."""
TRUST = 0.999
"""How far the bilateral solver trusts what it is given."""


class Found(PatchPrior[FoundConfig]):
    """Finds the background and returns the rest."""

    Config = FoundConfig
    needs_cls = True

    @property
    def facets(self) -> tuple[Facet, ...]:
        """The query of CLS, the keys that it meets, and what is compared."""
        return ("q_rotary", "k_rotary", self.config.facet)

    def group(self, patches: Patches) -> Grouping:
        """Returns the masks, the largest first; none where everything is like the background."""
        config, grid, stride = self.config, patches.grid, patches.patch
        if patches.plain:
            return Grouping.nothing(grid, stride)
        attention = attention_to_patches(patches)
        features = patches.features(config.facet, centred=config.centre_keys)
        weights = head_weights(attention) if config.head_weights else attention.new_ones(patches.heads)
        seed = int((weights @ attention).argmin())
        likeness = cosines(features if config.facet == "tokens" else weighted(features, weights), seed).cpu().numpy()
        if likeness[seed] <= config.background:  # a seed without features is like nothing, not even itself
            return Grouping.nothing(grid, stride)
        foreground = (likeness <= config.background).reshape(grid)
        if config.refine and foreground.any():
            foreground, stride = refined(foreground, patches.pixels, patches.patch), 1
        masks = parts(foreground, config.component)
        shares = masks if stride > 1 else [coverage(mask, patches.patch, grid) for mask in masks]
        margins = margin(likeness, config.background).reshape(grid)
        scores = [(margins * share).sum() / share.sum() for share in shares]
        return Grouping(np.stack(masks), np.array(scores, np.float32), stride) if masks else Grouping.nothing(grid, stride)


@torch.inference_mode()
def head_weights(attention: Tensor) -> Tensor:
    """Returns β_h = log(Σ_h' Q_h' / Q_h), where Q_h is the share of patches that head h attends to more than the mean of all heads.

    A sparse head, which says what stands out, counts more than one that attends to everything. (The weights of channels in CroW,
    Kalantidis et al. 2016, for heads.) A single head has weight 1, for log 1 = 0 would leave nothing.

    Args:
        attention: float (heads, N).
    """
    if len(attention) == 1:
        return attention.new_ones(1)
    attended = (attention > attention.mean()).to(attention.dtype).mean(dim=1) + NEVER
    return (attended.sum() / attended).log()


@torch.inference_mode()
def weighted(features: Tensor, weights: Tensor) -> Tensor:
    """Multiplies float (N, width), heads side by side, by the weights (heads,) of the heads."""
    return (features.unflatten(1, (len(weights), -1)) * weights[:, None]).flatten(1)


@torch.inference_mode()
def cosines(features: Tensor, seed: int) -> Tensor:
    """Returns the cosine (N,) of each feature with that of ``seed``; 0 where a feature is zero."""
    unit = functional.normalize(features, dim=1)
    return unit @ unit[seed]


def margin(likeness: NDArray[np.float32], background: float) -> NDArray[np.float32]:
    """Returns how far patches are from being background: 0 at the threshold and beyond, 1 where they have nothing in common with it.

    Args:
        likeness: float32 (N,), cosines to the seed.
        background: The threshold, above 0.
    """
    return np.clip(1 - likeness / np.float32(background), 0, 1)


def parts(foreground: Bitmap, component: Literal["largest", "each", "all"]) -> list[Bitmap]:
    """Returns the masks of a foreground, the largest first (of equals the first): 4-connected parts, or all as one; maybe none."""
    if component == "all":
        return [foreground] if foreground.any() else []
    return list(largest_components(foreground, 1 if component == "largest" else foreground.size))


def refined(foreground: Bitmap, pixels: Pixels, patch: int) -> Bitmap:
    """Moves the border of the foreground to one of the image, by the bilateral solver, and fills its holes.

    Args:
        foreground: bool (rows, columns).
        pixels: uint8 (height, width, 3).
        patch: Side of a patch in pixels.

    Returns:
        bool (height, width); the foreground as it came where the result overlaps it by no more than half (IoU).
    """
    from mdp_dino.bilateral_solver import solve  # nobody else needs it

    coarse = enlarged(foreground, patch, (pixels.shape[0], pixels.shape[1]))
    solved = solve(pixels, coarse.astype(np.float32), TRUST, sigma_spatial=16, sigma_luma=16, sigma_chroma=8)
    fine = ndimage.binary_fill_holes(solved > 0.5)
    both, either = (fine & coarse).sum(), (fine | coarse).sum()
    return fine if both > 0.5 * either else coarse
