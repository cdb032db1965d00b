"""What the platform may ask about weights; imports nothing heavy."""

from __future__ import annotations

from mdp_core.api import WeightsInfo, hookimpl


@hookimpl
def mdp_describe_weights(ref: str) -> WeightsInfo | None:
    """Describes ``timm:``, ``file:`` and ``builtin:`` weights."""
    from mdp_backbones.describe import describe

    return describe(ref)


@hookimpl
def mdp_fetch_weights(ref: str) -> WeightsInfo | None:
    """Downloads ``timm:`` weights into the hub's cache."""
    from mdp_backbones.describe import fetch

    return fetch(ref)


@hookimpl
def mdp_list_weights() -> list[WeightsInfo]:
    """Lists the built-in weights and those of timm in the hub's cache."""
    from mdp_backbones.describe import list_here

    return list_here()
