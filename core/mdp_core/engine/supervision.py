"""Supervision: what ground truth stands behind a stage, for the record of every result."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mdp_core.settings import StageConfig, stage_of, weight_refs

_SELF_SUPERVISED = frozenset(
    {
        "barlow",
        "byol",
        "data2vec",
        "dino",
        "dinov2",
        "dinov3",
        "ibot",
        "ijepa",
        "mae",
        "moco",
        "mocov3",
        "simclr",
        "swav",
        "vicreg",
    }
)
"""Names of self-supervised methods as they stand in timm's names: ``vit_small_patch16_224.dino``, ``vit_base_patch14_dinov2.lvd142m``."""


def labels_behind(config: StageConfig, stages: Mapping[str, str] | None = None) -> str | None:
    """Returns what labels a stage uses, in words, or None.

    That is what its plugin declares (``uses_labels``), the choice of a checkpoint by labels, weights of timm whose name does not say that they were made
    without labels (most of timm's are trained with ImageNet's), and weights of a pretrainer of the same pipeline that
    itself used labels; one that did not leaves no trace. Files are taken as they come: nobody can tell.

    Args:
        config: Settings of the stage's plugin.
        stages: Earlier stage → the labels behind it, for those that have some.
    """
    declared = config.labels_used()
    found = [declared] if declared else []
    if getattr(config, "checkpoint", "last") == "best-on-labels":
        found.append("its checkpoint is chosen by mIoU on the labels of the eval split")
    for ref in dict.fromkeys(weight_refs(config)):
        behind = (stages or {}).get(stage_of(ref) or "")
        if behind is not None:
            found.append(f"weights {ref} ({behind})")
        elif ref.startswith("timm:") and not _SELF_SUPERVISED & set(re.split(r"[:._]", ref.lower())):
            found.append(f"weights {ref} (not known to be self-supervised)")
    return "; ".join(found) or None
