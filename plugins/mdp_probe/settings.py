"""Settings of the probes. The defaults of ``linear`` are the paper's (A.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field, TypeAdapter, model_validator

from mdp_core.api import ProbeConfig, WeightsRef
from mdp_mmengine.settings import TRIAL_TRAINING, InputSize, MapPrediction, MapTraining

SEGMENTER = "segmenter"


def _check(value: str) -> str:
    if value == SEGMENTER:
        return value
    try:
        return TypeAdapter(WeightsRef).validate_python(value)
    except ValueError as error:
        raise ValueError(f"features are {SEGMENTER}, or weights: {error.errors()[0]['msg']}") from error  # type: ignore[attr-defined]


# The last mark of WeightsRef makes a file count by its contents, not by its path; inside a union it would be lost.
FeaturesRef = Annotated[str, AfterValidator(_check), WeightsRef.__metadata__[-1]]
"""``segmenter``, or what ``WeightsRef`` allows."""


class FeatureConfig(ProbeConfig):
    """Which frozen features are probed."""

    features: FeaturesRef = SEGMENTER
    """segmenter: what the last 1×1 convolution of the segmenter before this stage sees (DeepLab-v3: 256 channels); or a network:
    timm:NAME, file:PATH, builtin:NAME or stage:NAME, of a ViT the patch tokens after the last block and its final norm, of a
    ResNet the last map (C5)."""
    arch: str | None = None
    """timm architecture of file: features that do not say it, for example resnet50 for MoCo's."""
    dilated: bool = True
    """A ResNet's features at an eighth of the image, by dilation in place of its last two strides, as DeepLab's backbone has
    them; false: at a 32nd, as it was trained. Of no effect on the segmenter's and a ViT's."""

    @model_validator(mode="after")
    def _check_arch(self) -> Self:
        if self.arch is not None and not self.features.startswith("file:"):
            raise ValueError(f"arch belongs to features: file:…, and features are {self.features}: remove arch")
        return self


class LinearFit(MapTraining):
    """Training of the convolution."""

    batch: int = Field(24, ge=1)
    """Images in a batch, over all devices together."""
    lr: float = Field(0.1, gt=0)
    """Learning rate at the start; constant up to ``lr_step``."""
    lr_step: float = Field(25, gt=0)
    """When the learning rate falls: after so many epochs or, below 1, after this fraction of the training.

    With ``iters`` it keeps its proportion: after iters × lr_step / epochs batches. At or beyond the end: never.
    """


class LinearConfig(FeatureConfig):
    """A 1×1 convolution on frozen features, plain cross entropy (paper A.2). The last state predicts, never the best one."""

    distributed_steps: ClassVar[tuple[str, ...]] = ("fit",)
    trial: ClassVar[Mapping[str, Any]] = {"features": "builtin:tiny", "fit": TRIAL_TRAINING, "predict": {"side": 64}}

    fit: LinearFit = LinearFit()
    """Training."""
    predict: MapPrediction = MapPrediction()
    """Prediction."""

    @property
    def reads_segmenter(self) -> bool:
        """Whether the features are those of the segmenter before it."""
        return self.features == SEGMENTER

    @property
    def keeps_probabilities(self) -> bool:
        """Whether predictions come with probabilities, for a refiner that needs them."""
        return self.predict.probabilities

    def fit_effort(self, images: int) -> float:
        """Pixels that the training sees."""
        return self.fit.pixels(images)


class KnnConfig(FeatureConfig):
    """Retrieval (the protocol of MaskContrast): regions are those that the segmenter before it predicts, whatever the features."""

    seeded_steps: ClassVar[tuple[str, ...]] = ()
    trial: ClassVar[Mapping[str, Any]] = {"images": {"side": 64}}

    k: Annotated[int, Field(ge=1)] = 1
    """Nearest regions that vote; where several classes have most votes, the one with the nearest region among them."""
    images: InputSize = InputSize()
    """At which size images go through the networks, in training and evaluation alike."""

    @property
    def reads_segmenter(self) -> bool:
        """Always: the regions are the segmenter's."""
        return True

    def fit_effort(self, images: int) -> float:
        """Images."""
        return float(images)
