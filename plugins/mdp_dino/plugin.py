"""Registers the ViT priors."""

from __future__ import annotations

from mdp_core.api import Registry, hookimpl


@hookimpl
def mdp_register(registry: Registry) -> None:
    """Adds the prior ``dino-affinity``."""
    registry.add(
        "prior",
        "dino-affinity",
        factory="mdp_dino.affinity:DinoAffinity",
        config="mdp_dino.settings:DinoAffinityConfig",
        summary="One mask an image from the attention keys of a self-supervised ViT (MaskDistill §3.2).",
    )
