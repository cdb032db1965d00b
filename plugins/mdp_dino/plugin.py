"""Registers the priors on a ViT's features."""

from __future__ import annotations

from mdp_core.api import Registry, hookimpl

_PRIORS = (
    ("dino-affinity", "affinity", "DinoAffinity", "What CLS attends to most, grown by affinity of keys (MaskDistill §3.2)."),
    (
        "dino-attention",
        "attention",
        "DinoAttention",
        "The patches that hold most of the CLS token's attention (DINO; MaskDistill A.4).",
    ),
    ("lost", "lost", "Lost", "The patch with the fewest friends, and those like it (LOST)."),
    ("tokencut", "tokencut", "TokenCut", "The normalised cut of the graph of patches (TokenCut)."),
    ("maskcut", "maskcut", "MaskCut", "Several objects an image, by normalised cuts one after the other (CutLER)."),
    ("promerge", "promerge", "ProMerge", "Several objects an image, merged from what a grid of patches selects (ProMerge)."),
    (
        "deep-spectral",
        "deep_spectral",
        "DeepSpectral",
        "Segments or one object from eigenvectors of the graph of patches (Deep Spectral Methods).",
    ),
    ("found", "found", "Found", "Everything that is not like the least attended patch (FOUND, its first step)."),
)


@hookimpl
def mdp_register(registry: Registry) -> None:
    """Adds the priors."""
    for name, module, method, summary in _PRIORS:
        registry.add(
            "prior",
            name,
            factory=f"mdp_dino.{module}:{method}",
            config=f"mdp_dino.settings.{module}:{method}Config",
            summary=summary,
        )
