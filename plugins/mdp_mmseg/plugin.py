"""Registers the segmenter ``deeplabv3``."""

from __future__ import annotations

from mdp_core.api import Registry, hookimpl


@hookimpl
def mdp_register(registry: Registry) -> None:
    """Adds the plugin; imports nothing heavy."""
    registry.add(
        "segmenter",
        "deeplabv3",
        factory="mdp_mmseg.deeplabv3:DeepLabV3",
        config="mdp_mmseg.settings:DeepLabV3Config",
        summary="DeepLab-v3 (ResNet-18 or -50, output stride 8) with hard pixel mining, by MMSegmentation",
    )
