"""Settings of the segmenter ``deeplabv3``. The defaults are the paper's (§4.1, A.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from mdp_core.api import SegmenterConfig, WeightsRef
from mdp_mmengine.settings import TRIAL_TRAINING, MapPrediction, MapTraining


def _or_none(value: Any, check: ValidatorFunctionWrapHandler) -> str:
    return "none" if value in (None, "none") else check(value)


InitRef = Annotated[WeightsRef, WrapValidator(_or_none)]
"""``none``, or weights as everywhere: ``file:PATH`` or ``timm:NAME``."""


class FitSettings(MapTraining):
    """Training."""

    batch: int = Field(16, ge=2)
    """Images in a batch, over all devices together. At least 2: batch normalisation of pooled features needs two images."""
    lr: float = Field(0.002, gt=0)
    """Learning rate at the start; constant up to ``lr_step``."""
    lr_step: float = Field(40, gt=0)
    """When the learning rate falls: after so many epochs or, below 1, after this fraction of the training.

    With ``iters`` it keeps its proportion: after iters × lr_step / epochs batches. At or beyond the end: never.
    The paper says "after 40 epochs"; the authors' code lowers it after 41.
    """
    hard_pixels: float = Field(0.2, gt=0, le=1)
    """Fraction of a batch's pixels, those with the highest loss, that are learned from (Eq. 4); 1 = plain cross entropy.

    Eq. 4 divides by the number of clusters as well; the authors' code does not, and neither does this.
    """
    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout after the pyramid pooling's projection (torchvision's and the authors' DeepLab-v3; not in the paper)."""
    frozen_stages: int = Field(2, ge=-1, le=4)
    """What of the backbone keeps its initial weights and statistics: -1 nothing, 0 the stem, n the stem and layer1..n.

    "The first two ResNet blocks" of the paper are the stem, layer1 and layer2 in the authors' code.
    """
    init: InitRef = "none"
    """Initial weights of the backbone: ``none`` (random), ``file:PATH`` or ``timm:NAME``; the paper starts from MoCo.

    With ``none``, set ``frozen_stages: -1``: frozen random layers learn nothing.
    """
    warmup: int = Field(0, ge=0)
    """Batches of linear warm-up of the learning rate; the paper has none."""
    clip_grad: float | None = Field(None, gt=0)
    """Largest norm of the gradient; None: no clipping, as in the paper."""
    amp: Literal["off", "bf16", "fp16"] = "off"
    """Mixed precision on a GPU: faster, with slightly different numbers. A CPU trains in float32."""
    snapshots: int = Field(0, ge=0)
    """How many earlier states of the training are kept, evenly spaced, beside the last one, which is the model itself.

    ``checkpoint: best-on-labels`` chooses among them and the last; the authors' code looks after every epoch: 44.
    """
    precise_bn: int = Field(0, ge=0)
    """Batches after the end whose statistics replace the running ones of batch normalisation; 0: none (see mask-rcnn)."""
    mm_overrides: dict[str, Any] = Field(default_factory=dict)
    """For experts: merged into MMSegmentation's model config, for example ``{decode_head: {channels: 128}}``."""


class DeepLabV3Config(SegmenterConfig):
    """DeepLab-v3 with a dilated ResNet, trained with hard pixel mining (paper §3.3, Eq. 4, A.3)."""

    distributed_steps: ClassVar[tuple[str, ...]] = ("fit",)
    trial: ClassVar[Mapping[str, Any]] = {
        "arch": "r18",
        "fit": {**TRIAL_TRAINING, "lr": 0.02, "frozen_stages": -1, "mm_overrides": {"decode_head": {"channels": 32}}},
        "predict": {"side": 64},
    }

    arch: Literal["r18", "r50"] = "r50"
    """Backbone: ResNet-50 (the paper's) or ResNet-18 (for small machines)."""
    fit: FitSettings = FitSettings()
    """Training."""
    predict: MapPrediction = MapPrediction()
    """Prediction."""

    def fit_effort(self, images: int) -> float:
        """Pixels that the training sees."""
        return self.fit.pixels(images)

    @property
    def keeps_probabilities(self) -> bool:
        """Whether predictions come with probabilities, for a refiner that needs them."""
        return self.predict.probabilities

    @property
    def keeps_snapshots(self) -> bool:
        """Whether ``fit`` leaves earlier states of the training."""
        return self.fit.snapshots > 0

    @model_validator(mode="after")
    def _check_snapshots(self) -> Self:
        if self.checkpoint == "best-on-labels" and not self.fit.snapshots:
            raise ValueError(
                "checkpoint: best-on-labels chooses among states of the training, and only the last one is kept: "
                "set fit.snapshots, for example to 8"
            )
        return self
