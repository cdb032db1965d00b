"""Settings of the Mask R-CNN detector. Defaults are those of the paper (A.1) and of MoCo's detection configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from mdp_core.api import NoEffect, Settings, StageConfig
from mdp_mmengine.refs import BackboneRef

Arch = Literal["r50-c4", "r50-fpn", "r18-fpn"]
Side = Annotated[int, Field(ge=32)]


class FitSettings(Settings):
    """How the detector is trained."""

    iters: int = Field(24_000, ge=1)
    """Training iterations."""
    batch: int = Field(16, ge=1)
    """Images an iteration, over all devices."""
    lr: float = Field(0.02, gt=0)
    """Learning rate after warm-up; it belongs to a batch of 16: scale it with the batch."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """SGD momentum."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay."""
    steps: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Iterations after which the rate is multiplied by ``gamma``; null: after 20/24 and 22/24 of ``iters``
    (20,000 and 22,000 of 24,000). Steps beyond ``iters`` never come."""
    gamma: float = Field(0.1, gt=0, le=1)
    """Factor of each step."""
    warmup: int = Field(100, ge=0)
    """Iterations of linear warm-up from lr/1000; at most half of ``iters`` is spent on it."""
    train_sides: tuple[Side, ...] = tuple(range(480, 801, 32))
    """Short sides (pixels) to which a training image is resized, one drawn at random each time it is shown."""
    max_side: int = Field(1333, ge=32)
    """Upper bound of the long side in pixels."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    init: BackboneRef = "none"
    """Initial weights of the ResNet: none, file:PATH (torchvision keys; MoCo v2 and v3 checkpoints) or timm:NAME.
    The paper starts from MoCo (a file); ImageNet weights of timm were trained with labels."""
    frozen_stages: int | None = Field(None, ge=-1, le=4)
    """MMDetection's count: 0 freezes the stem, 1 also the first residual stage, …, -1 nothing. null: 1 with initial
    weights (Detectron2's FREEZE_AT 2, the paper's "first two stages": it counts the stem), -1 from scratch."""
    norm: Literal["syncbn", "bn", "frozen"] = "syncbn"
    """Batch normalisation of the ResNet: over all devices (the same as bn on one), over each device, or frozen
    statistics and scales, which needs initial weights. With the first two the FPN and the mask head have group
    normalisation too, to steady training from scratch."""
    precise_bn: int = Field(0, ge=0)
    """Batches after the last iteration whose statistics, pooled, replace the running ones of batch normalisation; weights
    stay as they are. 0: the running ones stay. MoCo's detection configuration, and with it the paper's: 200."""
    amp: Literal["off", "bf16", "fp16"] = "off"
    """Mixed precision on a GPU; a CPU trains in float32."""
    clip_grad: float | None = Field(None, gt=0)
    """Largest gradient norm; null: no clipping."""
    rpn_samples: int = Field(256, ge=2)
    """Anchors an image in the RPN's loss. Fewer are faster on a CPU."""
    rcnn_samples: int = Field(512, ge=2)
    """Proposals an image in the box and mask loss. Fewer are much faster on a CPU."""
    proposals: int | None = Field(None, ge=1)
    """Proposals an image kept after the RPN's NMS in training; null: 2000 for C4, 1000 for FPN. The number before the
    NMS follows in proportion (C4 six times as many, FPN twice as many a level)."""
    checkpoint_every: Annotated[int, Field(ge=1), NoEffect] = 500
    """Iterations between two resume files."""
    workers: Annotated[int, Field(ge=0), NoEffect] = 2
    """Loader processes."""
    mm_overrides: dict[str, Any] = {}  # noqa: RUF012  (pydantic copies defaults)
    """Merged into MMDetection's model configuration; for experts."""

    @model_validator(mode="after")
    def _check(self) -> FitSettings:
        if not self.train_sides:
            raise ValueError("train_sides: give at least one short side")
        if max(self.train_sides) > self.max_side:
            raise ValueError(f"train_sides reach {max(self.train_sides)}, beyond max_side {self.max_side}")
        if self.init == "none" and self.norm == "frozen":
            raise ValueError("norm: frozen needs initial weights (init); from scratch use bn or syncbn")
        if self.precise_bn and self.norm == "frozen":
            raise ValueError(
                "precise_bn: norm: frozen has no statistics to estimate; take bn or syncbn, or leave precise_bn out"
            )
        if self.init == "none" and (self.frozen_stages or -1) >= 0:
            raise ValueError("frozen_stages: freezing random weights is no use; give init, or leave frozen_stages out")
        return self

    @property
    def schedule_steps(self) -> tuple[int, ...]:
        """The steps, with the default worked out."""
        return self.steps if self.steps is not None else (self.iters * 20 // 24, self.iters * 22 // 24)

    @property
    def frozen(self) -> int:
        """``frozen_stages`` with the default worked out."""
        if self.frozen_stages is not None:
            return self.frozen_stages
        return -1 if self.init == "none" else 1


class PredictSettings(Settings):
    """How the detector predicts."""

    side: int = Field(800, ge=32)
    """Short side in pixels to which images are resized."""
    max_side: int = Field(1333, ge=32)
    """Upper bound of the long side in pixels."""
    score_threshold: float = Field(0.05, ge=0, le=1)
    """Detections with a lower score are dropped."""
    nms: float = Field(0.5, ge=0, le=1)
    """IoU above which the less confident of two boxes of a cluster is dropped."""
    max_per_image: int = Field(100, ge=1)
    """Detections kept an image."""
    proposals: int = Field(1000, ge=1)
    """Proposals an image that the box head looks at, of 6 times as many before the NMS for C4 (6000, as MoCo's) and as
    many a level for FPN. Fewer are faster on a CPU."""
    batch: Annotated[int, Field(ge=1), NoEffect] = 4
    """Images of equal padded size that run together."""


class MaskRCNNConfig(StageConfig):
    """Mask R-CNN (paper §3.2, A.1)."""

    distributed_steps: ClassVar[tuple[str, ...]] = ("fit",)

    trial: ClassVar[Mapping[str, Any]] = {
        "arch": "r18-fpn",
        "anchor_scale": 4,
        "fpn_channels": 32,
        "fit": {
            "iters": 4,
            "batch": 2,
            "warmup": 2,
            "train_sides": [48, 64],
            "max_side": 96,
            "rpn_samples": 32,
            "rcnn_samples": 16,
            "proposals": 50,
            "workers": 0,
            "checkpoint_every": 2,
        },
        "predict": {"side": 64, "max_side": 96, "proposals": 50, "max_per_image": 5, "score_threshold": 0.01},
    }

    arch: Arch = "r50-c4"
    """r50-c4 is the paper's; r50-fpn is faster at the same size; r18-fpn is for CPUs and small images (RoIAlign with
    2×2 samples a bin instead of as many as there are pixels)."""
    anchor_scale: float = Field(8.0, gt=0)
    """Side of the smallest anchor is ``anchor_scale`` · 4 pixels for FPN (level strides 4 to 64: sides 32 to 512 at 8),
    and the five sides of C4 are 32 to 512 at 8. For images of 128 to 192 px take 4 (16 to 256)."""
    fpn_channels: int | None = Field(None, ge=32, multiple_of=32)
    """Channels of the FPN and its heads (the box head's layers have four times as many); null: 256 for r50-fpn, 128 for
    r18-fpn, which halves its time. C4 has none."""
    fit: FitSettings = FitSettings()
    """Training."""
    predict: PredictSettings = PredictSettings()
    """Prediction."""

    def fit_effort(self, images: int) -> float:
        """Pixels that the training sees: iterations, batch, and the square of the mean short side."""
        side = sum(self.fit.train_sides) / len(self.fit.train_sides)
        return self.fit.iters * self.fit.batch * side**2
