"""Registers the refiners."""

from __future__ import annotations

from mdp_core.api import Registry, hookimpl


@hookimpl
def mdp_register(registry: Registry) -> None:
    """Adds the refiner ``confidence``."""
    registry.add(
        "refiner",
        "confidence",
        factory="mdp_refine.confidence:Confidence",
        config="mdp_refine.settings:ConfidenceConfig",
        summary="Keeps the confident masks and paints them into one label map an image (MaskDistill §3.3).",
    )
