"""Registers the pretrainer."""

from __future__ import annotations

from mdp_core.api import Registry, hookimpl


@hookimpl
def mdp_register(registry: Registry) -> None:
    """Adds the pretrainer ``dino``."""
    registry.add(
        "pretrainer",
        "dino",
        factory="mdp_pretrain.pretrainer:Dino",
        config="mdp_pretrain.settings:DinoConfig",
        summary="Self-distillation without labels (DINO), with a patch loss as in iBOT and DINOv2, for any timm ViT.",
    )
