"""Settings of the segmenter ``deeplabv3``. The defaults are the paper's (§4.1, A.3)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from mdp_core.api import NoEffect, Settings, StageConfig, WeightsRef


def _or_none(value: Any, check: ValidatorFunctionWrapHandler) -> str:
    return "none" if value in (None, "none") else check(value)


InitRef = Annotated[WeightsRef, WrapValidator(_or_none)]
"""``none``, or weights as everywhere: ``file:PATH`` or ``timm:NAME``."""


class FitSettings(Settings):
    """Training."""

    epochs: int = Field(45, ge=1)
    """Passes over the training images. Batches run across the border of two passes, so that all of them are full."""
    iters: int | None = Field(None, ge=1)
    """Length of the training in batches; overrides ``epochs``."""
    batch: int = Field(16, ge=2)
    """Images in a batch, over all devices together. At least 2: batch normalisation of pooled features needs two images."""
    lr: float = Field(0.002, gt=0)
    """Learning rate at the start; constant up to ``lr_step``."""
    lr_step: float = Field(40, gt=0)
    """When the learning rate falls: after so many epochs or, below 1, after this fraction of the training.

    With ``iters`` it keeps its proportion: after iters × lr_step / epochs batches. At or beyond the end: never.
    The paper says "after 40 epochs"; the authors' code lowers it after 41.
    """
    lr_gamma: float = Field(0.1, gt=0, le=1)
    """What the learning rate is multiplied by at ``lr_step``."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay of SGD, on all trained parameters."""
    hard_pixels: float = Field(0.2, gt=0, le=1)
    """Fraction of a batch's pixels, those with the highest loss, that are learned from (Eq. 4); 1 = plain cross entropy.

    Eq. 4 divides by the number of clusters as well; the authors' code does not, and neither does this.
    """
    size: int = Field(512, ge=32, le=4096)
    """Side of the square that images are resized to in training, ignoring their aspect, as the authors' code does."""
    scale: tuple[float, float] = (0.75, 1.25)
    """Range of the random scale, drawn uniformly, about the image's centre."""
    rotate: tuple[float, float] = (-5.0, 5.0)
    """Range of the random rotation in degrees, drawn uniformly, counter-clockwise, about the image's centre."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    border: Literal["background", "ignore"] = "background"
    """Label of the black border that scaling down and rotating bring in: ``background`` (authors' code) or ``ignore``."""
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
    checkpoint_every: Annotated[int, NoEffect] = Field(500, ge=1)
    """Batches between two checkpoints that an interrupted training resumes from."""
    workers: Annotated[int, NoEffect] = Field(2, ge=0)
    """Processes that read and augment images; 0 = the training process itself."""
    mm_overrides: dict[str, Any] = Field(default_factory=dict)
    """For experts: merged into MMSegmentation's model config, for example ``{decode_head: {channels: 128}}``."""

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale: {list(self.scale)} is no range of positive factors, lowest first")
        if not -180 <= self.rotate[0] <= self.rotate[1] <= 180:
            raise ValueError(f"rotate: {list(self.rotate)} is no range of degrees within -180..180, lowest first")
        return self

    def length(self, images: int) -> int:
        """Returns the number of batches of the whole training on so many images."""
        return self.iters or max(1, round(self.epochs * images / self.batch))

    def drop_at(self, total: int) -> int | None:
        """Returns after how many of ``total`` batches the learning rate falls; None where it never does."""
        fraction = self.lr_step if self.lr_step < 1 else self.lr_step / self.epochs
        at = max(1, round(total * fraction))
        return at if at < total else None


class PredictSettings(Settings):
    """Prediction."""

    size: int | None = Field(None, ge=32, le=4096)
    """Side of the square that images are squashed to, as the authors' code does (512); None: their own size (paper, A.3)."""
    side: int | None = Field(None, ge=32, le=4096)
    """Longest allowed short side: larger images are shrunk to it, keeping their aspect. Not together with ``size``.

    Set it where photographs have many megapixels: at their own size they need gigabytes each.
    """
    upsample: Literal["logits", "labels"] = "logits"
    """How predictions reach the image's size: bilinear logits, then the best label; or, as the authors' code does, the
    best label at the network's input size, then nearest neighbour. The same thing where images keep their size."""
    probabilities: bool = False
    """Also keep the probabilities, at an eighth of the network's input, for a later step that asks (dense CRF)."""
    batch: Annotated[int, NoEffect] = Field(8, ge=1)
    """Most images predicted together; only images of one size are."""

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.size is not None and self.side is not None:
            raise ValueError("size and side exclude each other: size squashes to a square, side keeps the aspect")
        return self


class DeepLabV3Config(StageConfig):
    """DeepLab-v3 with a dilated ResNet, trained with hard pixel mining (paper §3.3, Eq. 4, A.3)."""

    distributed_steps: ClassVar[tuple[str, ...]] = ("fit",)

    arch: Literal["r18", "r50"] = "r50"
    """Backbone: ResNet-50 (the paper's) or ResNet-18 (for small machines)."""
    fit: FitSettings = FitSettings()
    """Training."""
    predict: PredictSettings = PredictSettings()
    """Prediction."""

    def fit_effort(self, images: int) -> float:
        """Pixels that the training sees."""
        return float(self.fit.length(images) * self.fit.batch * self.fit.size**2)
