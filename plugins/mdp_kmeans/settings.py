"""Settings of the k-means clusterer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from mdp_core.api import NoEffect, OnlyFor, Settings, StageConfig, WeightsRef


class EmbedConfig(Settings):
    """How a mask becomes a vector: a view of the image, and what a network makes of it.

    A ViT gives its CLS token after the final norm (one without CLS the mean of its patch tokens), a ResNet the global average of
    its last map (C5).
    """

    weights: WeightsRef = "timm:vit_small_patch8_224.dino"
    """The network, a ViT or a ResNet: timm:NAME, file:PATH (needs arch where the file does not say it) or builtin:NAME
    (builtin:random is untrained, for trials)."""
    arch: str | None = None
    """timm architecture of file: weights, for example vit_small_patch8_224.dino, or resnet50 for MoCo's and SwAV's."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the network's arithmetic: bf16 and fp16 are faster on GPUs, with slightly different embeddings, which stay float32."""
    view: Literal["masked-crop", "crop", "masked-image"] = "masked-crop"
    """masked-crop: the mask's box with all other pixels in the mean colour of the network's normalisation (ImageNet's for most);
    crop: the box with all its pixels, as the authors' code does; masked-image: the whole image with all other pixels in the
    mean colour."""
    size: Literal["native"] | Annotated[int, Field(ge=16)] = 224
    """Side of the square that each view is resized to, in pixels; native: views stay as large as they are in the image, as in the
    authors' code. A large native view takes the network much time and memory: see largest and batch."""
    largest: int | None = Field(None, ge=16)
    """For size: native. Views with a longer side than this are shrunk to it, in pixels; null: none is."""
    shape: Literal["pad", "squash"] = "pad"
    """How a view becomes square: pad keeps its proportions and fills up with the mean colour, the object in the middle;
    squash stretches it. Not for size: native."""
    padding: Literal["edge", "zeros"] = "edge"
    """What fills up the last patches on the right and at the bottom where a side is no multiple of the ViT's patch: copies of the
    edge, or zeros after normalisation, as in the authors' code."""
    positions: Literal["size", "scale-factor"] = "size"
    """How a ViT's learnt positions are resampled to the view's grid of patches: size stretches them over it; scale-factor does it
    as DINO's own code and the authors', which moves them by up to a tenth of a patch."""
    box: Literal["mask", "stored"] = "mask"
    """Box of masked-crop and crop. mask: tight around the mask's pixels; stored: the box that came with the mask, rounded outwards to
    whole pixels. They differ where the maker of the mask says so (a prior with outline: polygon, a detector)."""
    margin: float = Field(0.0, ge=0, le=1)
    """How far the box is widened on each side, as a share of its own side; it stays within the image. Not for masked-image."""
    batch: Annotated[int, NoEffect] = Field(32, ge=1)
    """Views that go through the network together; only views of equal size do. Up to four times as many wait in memory for others
    of their size."""


class KmeansConfig(StageConfig):
    """Settings of ``kmeans``."""

    trial: ClassVar[Mapping[str, Any]] = {
        "embed": {"weights": "builtin:tiny", "size": 32},
        "clusters": 3,
        "restarts": 2,
        "iterations": 5,
    }

    embed: EmbedConfig = EmbedConfig()
    """How masks are embedded; changing anything else does not embed again."""
    clusters: Annotated[int, OnlyFor("fit")] = Field(20, ge=1, le=65534)
    """Number of clusters."""
    normalise: Annotated[Literal["standardise-l2", "zscore-l2", "l2", "standardise", "none"], OnlyFor("fit")] = "standardise-l2"
    """What happens to embeddings first. standardise divides each dimension by its standard deviation over the training masks
    (the mean is not subtracted, as in the authors' code); zscore subtracts the mean as well, for networks whose embeddings all
    point one way, as a ResNet's do, which are averages of what a ReLU lets through; l2 scales each vector to length 1."""
    backend: Annotated[Literal["faiss", "sklearn-minibatch"], OnlyFor("fit")] = "faiss"
    """faiss: Lloyd's algorithm on all masks; sklearn-minibatch: mini batches of 1000, as the authors' code does."""
    restarts: Annotated[int, OnlyFor("fit")] = Field(10, ge=1)
    """Starts from different k-means++ seeds; the one with the smallest sum of squared distances is kept. sklearn-minibatch compares
    starts on a sample of the masks and trains the best one only (scikit-learn's n_init; its default was 3 up to version 1.3 and
    is 1 since then)."""
    iterations: Annotated[int, OnlyFor("fit")] = Field(50, ge=1)
    """Iterations of each start (faiss), or largest number of passes over the masks (sklearn-minibatch; scikit-learn's
    default is 100)."""

    def fit_effort(self, images: int) -> float:
        """Distances between masks (about one an image) and centres."""
        return float(self.restarts * self.iterations * self.clusters * images)
