"""Cross entropy over the hardest pixels of a batch (paper §3.3, Eq. 4)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F  # noqa: N812
from mmseg.registry import MODELS
from torch import Tensor, nn

from mdp_mmengine.scenes import IGNORE_INDEX


def hard_pixel_loss(logits: Tensor, labels: Tensor, fraction: float, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Returns the mean cross entropy over the hardest pixels of the whole batch.

    Eq. 4 without its constant factor 1/C: k = ⌊fraction · N · H · W⌋ (at least 1) counts all pixels, ignored ones too, as
    the authors' code does; the k hardest pixels that are not ignored take part, all of them where fewer than k are left.
    Trained on several devices, each device mines its own share of the batch, as theirs does too.

    Args:
        logits: Floating (N, C + 1, H, W).
        labels: int64 (N, H, W) with 0..C or ``ignore_index``.
        fraction: Above 0, at most 1; 1 is the ordinary mean cross entropy.
        ignore_index: Label of pixels that do not count.

    Returns:
        float32 scalar; 0 with zero gradients where every pixel is ignored.
    """
    losses = F.cross_entropy(logits.float(), labels, ignore_index=ignore_index, reduction="none").flatten()
    wanted = max(1, int(fraction * labels.numel()))
    valid = int((labels != ignore_index).sum())
    if valid > wanted:
        # Ignored pixels have loss 0 and so add nothing where they fill up the k hardest.
        losses = losses.topk(wanted, sorted=False).values
    return losses.sum() / max(1, min(wanted, valid))


@MODELS.register_module()
class HardPixelLoss(nn.Module):
    """``hard_pixel_loss`` as a loss module of MMSegmentation (``loss_decode``).

    Args:
        fraction: Share of all pixels that takes part.
        loss_name: Name in the training log.
    """

    def __init__(self, fraction: float, loss_name: str = "loss_hard") -> None:
        super().__init__()
        self.fraction = fraction
        self.loss_name = loss_name

    def forward(self, logits: Tensor, labels: Tensor, ignore_index: int = IGNORE_INDEX, **_: Any) -> Tensor:
        """Returns the loss; further arguments that MMSegmentation passes (``weight``) are None and not used."""
        return hard_pixel_loss(logits, labels, self.fraction, ignore_index)
