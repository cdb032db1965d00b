"""Supervision: what ground truth stands behind a stage, for the record of every result."""

from __future__ import annotations

import re

from mdp_core.settings import StageConfig, weight_refs

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


def labels_behind(config: StageConfig) -> str | None:
    """Returns what labels a stage uses, in words, or None.

    That is what its plugin declares (``uses_labels``), and weights of timm whose name does not say that they were made
    without labels: most of timm's are trained with ImageNet's. Files are taken as they come: nobody can tell.
    """
    declared = type(config).uses_labels
    unknown = [
        f"weights {ref} (not known to be self-supervised)"
        for ref in dict.fromkeys(weight_refs(config))
        if ref.startswith("timm:") and not _SELF_SUPERVISED & set(re.split(r"[:._]", ref.lower()))
    ]
    return "; ".join([*([declared] if declared else []), *unknown]) or None
