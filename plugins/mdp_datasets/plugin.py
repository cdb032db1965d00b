"""Registers the datasets."""

from mdp_core.api import Registry, hookimpl


@hookimpl
def mdp_register(registry: Registry) -> None:
    """Adds ``shapes``, ``folder``, ``voc`` and ``coco``."""
    registry.add(
        "dataset",
        "shapes",
        factory="mdp_datasets.shapes:Shapes",
        config="mdp_datasets.settings:ShapesConfig",
        summary="Generated scenes of five textured shapes with exact ground truth; needs no files",
    )
    registry.add(
        "dataset",
        "folder",
        factory="mdp_datasets.folder:Folder",
        config="mdp_datasets.settings:FolderConfig",
        summary="All images in a folder and the folders below it; no ground truth",
    )
    registry.add(
        "dataset",
        "voc",
        factory="mdp_datasets.voc:Voc",
        config="mdp_datasets.settings:VocConfig",
        summary="PASCAL VOC segmentation in the layout of VOCdevkit",
    )
    registry.add(
        "dataset",
        "coco",
        factory="mdp_datasets.coco:Coco",
        config="mdp_datasets.settings:CocoConfig",
        summary="COCO, or any images with annotations as COCO JSON; subsets by lists (coco20k)",
    )
