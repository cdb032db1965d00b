"""Prior ``dino-affinity``: masks from the keys and the CLS query of a ViT's last block (MaskDistill, §3.2).

The affinity of two patches, averaged over the heads, is a dot product of their keys with the heads concatenated, so
Σ_{i∈P'} A_ij = (Σ_{i∈P'} k_i) · k_j / |H|: time and memory are O(N · d), and the N × N matrix is never built.
Dividing by |H| changes no sign and no order, and is left out.

In a network with rotary positions CLS meets turned keys, as its attention does; affinities compare keys before the turn, so
that they say what patches show and not where they are.

Images are padded on the right and at the bottom, by less than a patch. Every patch therefore shows some of the image, and all
take part; what lies in the padding is cropped from the mask.

Two things go beyond the paper, and are off by default. ``masks``: the method is repeated on the patches that no mask covers yet,
as if there were no others. ``scales``: affinities are averaged over several sizes of the image (``mdp_dino.scales``).

The authors' program does more than the paper says: ``heads``, ``cls_mass``, ``padding``, ``positions``, ``upsample`` and
``outline`` are the switches between the two, and their defaults are the paper's.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mdp_backbones.attention import Facet
from mdp_core.api import Bitmap, ImageRecord, Instances, StageError
from mdp_dino.components import component_of
from mdp_dino.outlines import instances_of
from mdp_dino.patches import Grouping, Patches, PatchPrior
from mdp_dino.pixels import to_pixels
from mdp_dino.settings.affinity import DinoAffinityConfig


class DinoAffinity(PatchPrior[DinoAffinityConfig]):
    """Mines the most discriminative object of each image, and others after it if wanted."""

    Config = DinoAffinityConfig
    needs_cls = True

    @property
    def facets(self) -> tuple[Facet, ...]:
        """The query of CLS, what it meets, and what affinities compare."""
        return ("q", "k_rotary", self.config.facet)

    def group(self, patches: Patches) -> Grouping:
        """Returns the masks in the order found, scored by ``separation``; nothing in an image of one colour."""
        config = self.config
        keys, query = (
            first_heads(values, config.heads, patches.heads, patches.scales)
            for values in (patches.values["k_rotary"], patches.prefix["q"][0])
        )
        left: Bitmap = np.full(patches.grid, not patches.plain)
        masks: list[Bitmap] = []
        scores: list[float] = []
        while len(masks) < config.masks and left.any() and (not masks or left.mean() >= config.uncovered):
            mask, score = self._one(keys, query, patches.values[config.facet], left)
            if not mask.any() or score < config.min_score:
                break
            masks.append(mask)
            scores.append(score)
            left = left & ~mask
        if not masks:
            return Grouping.nothing(patches.grid, patches.patch)
        return Grouping(np.stack(masks), np.array(scores, np.float32), patches.patch)

    def _one(self, keys: Tensor, query: Tensor, features: Tensor, left: Bitmap) -> tuple[Bitmap, float]:
        """Returns the mask found among the patches ``left``, bool (rows, columns), and its score; empty where there is none."""
        config = self.config
        if not left.all():
            at = torch.from_numpy(np.flatnonzero(left)).to(keys.device)
            keys, features = keys[at], features[at]
        found, source = object_patches(
            keys, query, topk=config.topk, centre_keys=config.centre_keys, features=features, cls_mass=config.cls_mass
        )
        mask: Bitmap = np.zeros(left.shape, np.bool_)
        mask[left] = balanced(features, found, config.balance).cpu().numpy()
        if config.component == "source":
            mask = component_of(mask, divmod(int(np.flatnonzero(left)[source]), left.shape[1]))
        return mask, separation(features, torch.from_numpy(mask[left]).to(features.device))

    def instances(self, grouping: Grouping, record: ImageRecord) -> Instances:
        """Returns the masks at the image's size, by the rules of the settings, each with the box of its pixels before ``outline``."""
        size, config = (record.height, record.width), self.config
        masks = [to_pixels(mask, grouping.stride, self.input_size(size), size, config.upsample) for mask in grouping.masks]
        return instances_of(np.stack(masks), grouping.scores, config.outline) if masks else Instances.empty(*size)


@torch.inference_mode()
def object_patches(
    keys: Tensor,
    query: Tensor,
    *,
    topk: float,
    centre_keys: bool = False,
    features: Tensor | None = None,
    cls_mass: float | None = None,
) -> tuple[Tensor, int]:
    """Selects the patches of the object that CLS attends to most (paper §3.2).

    Args:
        keys: float (N, d), patch keys with the heads concatenated: those heads that a_CLS is averaged over.
        query: float (d,), the CLS query likewise.
        topk: Share of patches in the proposals P, in (0, 1]; k = ⌊topk · N⌋, at least 1.
        centre_keys: Subtract the mean key (and the mean of ``features``) first. The order of a_CLS does not change, the signs
            of A do.
        features: float (N, any), what affinities compare instead of the keys.
        cls_mass: Gate a_CLS first (``within_mass``), as it is without centring.

    Of equal a_CLS the patch with the lower index comes first.

    Returns:
        bool (N,), the mask M_s, and the index of the source patch s.
    """
    features, raw = keys if features is None else features, keys
    if centre_keys:
        keys, features = keys - keys.mean(dim=0), features - features.mean(dim=0)
    a_cls = keys @ query if cls_mass is None else within_mass(raw @ query, cls_mass)  # Eq. 1
    order = torch.argsort(a_cls, descending=True, stable=True)
    proposals = order[: max(1, int(topk * len(keys)))]
    source = int(order[0])
    similar = proposals[features[proposals] @ features[source] > 0]  # P': Eq. 2 in row s
    return features @ features[similar].sum(dim=0) > 0, source  # Σ_{i∈P'} A_ij > 0


@torch.inference_mode()
def within_mass(logits: Tensor, mass: float) -> Tensor:
    """Sets all logits to zero but the largest, those that hold the share ``mass`` of their sum (the authors' program).

    From the smallest on, each is divided by the sum and added up; what lies above 1 - mass stays. That is the rule for
    attention, which is positive, applied to raw logits. So it depends on their mean: far above zero, patches are cut from the
    bottom; around zero, the cut is erratic; below, zeros outrank what stays, and the least attended patches come first.

    Args:
        logits: float (N,), of any sign. Of equal ones at the cut, those with the higher index stay.
        mass: Share in (0, 1).

    Returns:
        float (N,); all zero where the sum is.
    """
    ascending, order = torch.sort(logits.double(), stable=True)
    kept = order[(ascending / ascending.sum()).cumsum(dim=0) > 1 - mass]
    return torch.zeros_like(logits).scatter(0, kept, logits[kept])


def first_heads(values: Tensor, heads: int | Literal["all"], there: int, scales: int = 1) -> Tensor:
    """Returns the first ``heads`` heads of each scale of float (..., scales · there · head_dim), which lie side by side.

    Raises:
        StageError: There are fewer heads.
    """
    if heads == "all":
        return values
    if heads > there:
        raise StageError(f"there are no {heads} heads in a block of {there}", hint=f"set heads: to all, or to 1 to {there}")
    return values.reshape(*values.shape[:-1], scales, there, -1)[..., :heads, :].flatten(-3)


@torch.inference_mode()
def balanced(features: Tensor, mask: Tensor, rounds: int) -> Tensor:
    """Moves the border between mask and rest halfway between their means: two-means clustering that starts from the mask.

    With centred features zero lies at the image's mean f·o + (1-f)·b, for an object that covers the share f and has the mean
    feature o on a background b: a patch that is only f object counts as one. Halfway it has to be half.

    Args:
        features: float (N, d).
        mask: bool (N,).
        rounds: How often; it ends early where nothing changes.

    Returns:
        bool (N,); the mask itself where it is empty or everything.
    """
    for _ in range(rounds):
        if not mask.any() or mask.all():
            break
        inside, outside = features[mask].mean(dim=0), features[~mask].mean(dim=0)
        moved = (features - (inside + outside) / 2) @ (inside - outside) > 0
        if torch.equal(moved, mask):
            break
        mask = moved
    return mask


@torch.inference_mode()
def separation(features: Tensor, mask: Tensor) -> float:
    """Says how object-like a mask is: the share of the features' variance that lies between mask and rest (Otsu, 1979).

    With the share f of the patches in the mask, the mean features o in it and b outside, and the variance v of all, it is
    f · (1-f) · ‖o - b‖² / v. In affinities: how much more alike two patches are that lie on the same side of the mask's border than
    any two. It does not depend on the scale of features or on their mean, so not on ``centre_keys``. 0: mask and rest do not differ, or
    there is no rest; 1: each of them is uniform.

    Args:
        features: float (N, d).
        mask: bool (N,).

    Returns:
        In [0, 1].
    """
    if not mask.any() or mask.all():
        return 0.0
    wide = features.double()
    share, variance = mask.double().mean(), wide.var(dim=0, correction=0).sum()
    between = share * (1 - share) * (wide[mask].mean(dim=0) - wide[~mask].mean(dim=0)).square().sum()
    return min(float(between / variance), 1.0) if variance > 0 else 0.0
