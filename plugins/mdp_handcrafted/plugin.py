"""Registers the priors made by hand."""

from __future__ import annotations

from mdp_core.api import Registry, hookimpl

_PRIORS = (
    ("superpixel", "superpixel", "Superpixel", "Superpixels merged to regions of an object's size (SLIC or Felzenszwalb)."),
    ("hierarchy", "hierarchy", "Hierarchy", "Regions of a hierarchy that merges across weak boundaries first."),
    ("saliency", "saliency", "Saliency", "What stands out from the border of the image, or from its spectrum."),
    ("mask-folder", "mask_folder", "MaskFolder", "Masks that another program made: PNG files or COCO JSON."),
    ("grabcut", "grabcut", "GrabCut", "GrabCut in boxes: given ones, or one that leaves a margin."),
)


@hookimpl
def mdp_register(registry: Registry) -> None:
    """Adds the priors."""
    for name, module, method, summary in _PRIORS:
        registry.add(
            "prior",
            name,
            factory=f"mdp_handcrafted.{module}:{method}",
            config=f"mdp_handcrafted.settings.{module}:{method}Config",
            summary=summary,
        )
