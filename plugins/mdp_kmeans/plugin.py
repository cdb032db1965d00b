"""Registers the k-means clusterer."""

from __future__ import annotations

from mdp_core.api import Registry, hookimpl


@hookimpl
def mdp_register(registry: Registry) -> None:
    """Adds the clusterer ``kmeans``."""
    registry.add(
        "clusterer",
        "kmeans",
        factory="mdp_kmeans.clusterer:Kmeans",
        config="mdp_kmeans.settings:KmeansConfig",
        summary="k-means on a ViT's or ResNet's embeddings of the masked objects (MaskDistill §3.2).",
    )
