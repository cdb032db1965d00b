"""Registers the refiners."""

from __future__ import annotations

from mdp_core.api import Registry, hookimpl


@hookimpl
def mdp_register(registry: Registry) -> None:
    """Adds the refiners ``confidence`` and ``dense-crf``."""
    registry.add(
        "refiner",
        "confidence",
        factory="mdp_refine.confidence:Confidence",
        config="mdp_refine.settings:ConfidenceConfig",
        summary="Keeps the confident masks and paints them into one label map an image (MaskDistill §3.3).",
    )
    registry.add(
        "refiner",
        "dense-crf",
        factory="mdp_refine.dense_crf:DenseCrf",
        config="mdp_refine.settings:DenseCrfConfig",
        summary="Moves the borders of labels to those of the image with a fully connected CRF (MaskDistill, Table S1).",
    )
