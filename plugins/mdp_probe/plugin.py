"""Registers the probes ``linear`` and ``knn``."""

from __future__ import annotations

from mdp_core.api import Registry, hookimpl


@hookimpl
def mdp_register(registry: Registry) -> None:
    """Adds the plugins; imports nothing heavy."""
    registry.add(
        "probe",
        "linear",
        factory="mdp_probe.linear:LinearProbe",
        config="mdp_probe.settings:LinearConfig",
        summary="A 1×1 convolution on frozen features, trained with true classes (paper A.2)",
    )
    registry.add(
        "probe",
        "knn",
        factory="mdp_probe.knn:KnnProbe",
        config="mdp_probe.settings:KnnConfig",
        summary="Retrieval: each region takes the true class of its nearest regions of the training split",
    )
