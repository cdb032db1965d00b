"""Registers the executor."""

from __future__ import annotations

from mdp_core.api import Registry, hookimpl


@hookimpl
def mdp_register(registry: Registry) -> None:
    """Adds the executor ``ray``."""
    registry.add(
        "executor",
        "ray",
        factory="mdp_ray.executor:RayExecutor",
        config="mdp_ray.settings:RayConfig",
        summary="Workers on the machines of a Ray cluster, or of this one; lost machines are survived.",
    )
