"""Registers the detector."""

from __future__ import annotations

from mdp_core.api import Registry, hookimpl


@hookimpl
def mdp_register(registry: Registry) -> None:
    """Registers ``mask-rcnn``."""
    registry.add(
        "detector",
        "mask-rcnn",
        factory="mdp_mmdet.mask_rcnn:MaskRCNN",
        config="mdp_mmdet.settings:MaskRCNNConfig",
        summary="Mask R-CNN (R50-C4 as in the paper, R50-FPN, R18-FPN for CPUs) trained on clustered masks by MMDetection",
    )
