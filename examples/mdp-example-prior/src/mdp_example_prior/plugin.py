"""Registers the prior. Every `mdp` command imports this module: nothing heavy here."""

from __future__ import annotations

from mdp_core.api import Registry, hookimpl


@hookimpl
def mdp_register(registry: Registry) -> None:
    """Adds the prior `example-prior`."""
    registry.add(
        "prior",
        "example-prior",
        factory="mdp_example_prior.border_palette:BorderPalette",
        config="mdp_example_prior.settings:BorderPaletteConfig",
        summary="What no colour of the border explains",
        api=1,
    )
