"""Settings of the pretrainer ``dino``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from mdp_core.api import NoEffect, Settings, StageConfig, WeightsRef

Range = tuple[float, float]
MIN_EPSILON = 0.02
"""Lowest temperature for Sinkhorn-Knopp: the exponentials stay within float32."""


class ColourConfig(Settings):
    """How the colours of each view are changed; each view draws its own."""

    hue: float = Field(0.1, ge=0, le=0.5)
    """Largest turn of the hue, in turns: 0.5 reaches every hue, so that colours say nothing of what something is."""
    saturation: float = Field(0.4, ge=0, le=1)
    """The saturation is multiplied by 1 ± at most this."""
    contrast: float = Field(0.4, ge=0, le=1)
    """The contrast is multiplied by 1 ± at most this."""
    brightness: float = Field(0.2, ge=0, le=1)
    """At most this is added or taken away, where 1 is white."""
    grey: float = Field(0.2, ge=0, le=1)
    """Share of views without colour."""
    invert: float = Field(0.0, ge=0, le=1)
    """Share of views as a negative."""
    shade: float = Field(0.0, ge=0, le=1)
    """Standard deviation, at most, of a random smooth field of light and colour over a view, where 1 is white: what lies in
    light or shadow is still the same."""
    noise: float = Field(0.0, ge=0, le=1)
    """Standard deviation of the noise on the pixels, at most, where 1 is white."""
    blur: float = Field(0.3, ge=0, le=1)
    """Share of views that are blurred, with a Gaussian of 0.1 to 2 pixels at 224 pixels, in proportion at other sizes."""


class ObjectsConfig(Settings):
    """Views around the masks that a prior before this stage has mined; without one, all views are of whole scenes."""

    share: float = Field(0.7, ge=0, le=1)
    """Share of the images of a batch whose views are cut around their mask."""
    fill: float = Field(0.5, ge=0, le=1)
    """Share of these views in which all outside the mask is the mean colour, as the clusterer's masked crops are."""
    scale: Range = (0.8, 1.5)
    """Side of a large view, in sides of the mask's box."""
    local_scale: Range = (0.4, 0.8)
    """Side of a small view, in sides of the mask's box."""


class ViewsConfig(Settings):
    """Multi-crop: two large views of each image and several small ones."""

    size: int = Field(224, ge=16)
    """Side of the large views, in pixels; a multiple of the patch."""
    scale: Range = (0.32, 1.0)
    """Share of the image's area that a large view shows."""
    local_count: int = Field(8, ge=0, le=32)
    """Number of small views."""
    local_size: int = Field(96, ge=16)
    """Side of the small views, in pixels; a multiple of the patch."""
    local_scale: Range = (0.05, 0.32)
    """Share of the image's area that a small view shows."""
    rotation: float = Field(0.0, ge=0, le=180)
    """Views are turned by at most this many degrees; 180 where images have no upright (aerial, microscopic)."""
    flip: Literal["none", "horizontal"] = "horizontal"
    """horizontal: half of the views are mirrored."""
    colour: ColourConfig = ColourConfig()
    """Changes of colour."""
    objects: ObjectsConfig = ObjectsConfig()
    """Views around mined masks, where a prior comes before this stage."""


class HeadConfig(Settings):
    """The projection heads, thrown away after the training."""

    hidden: int = Field(2048, ge=8)
    """Width of the two hidden layers."""
    bottleneck: int = Field(256, ge=2)
    """Width of the normalised vector that is compared with the prototypes."""
    prototypes: int = Field(65536, ge=2)
    """Number of prototypes of the class token."""
    patch_prototypes: int = Field(8192, ge=2)
    """Number of prototypes of the patch tokens."""
    learn_prototypes: bool = True
    """False: they stay as they were drawn. Small networks collapse less."""
    batch_norm: bool = False
    """BatchNorm in the hidden layers."""


class TrainConfig(Settings):
    """The training."""

    iters: int = Field(100_000, ge=1)
    """Iterations."""
    batch: int = Field(256, ge=2)
    """Images an iteration, over all devices."""
    lr: float = Field(0.0005, gt=0)
    """Largest learning rate (AdamW), after the warm-up; a cosine brings it down to lr_end."""
    lr_end: float = Field(1e-6, ge=0)
    """Learning rate at the end."""
    warmup: float = Field(0.1, ge=0, le=0.5)
    """Share of the iterations during which the learning rate rises from 0."""
    weight_decay: Range = (0.04, 0.4)
    """Weight decay at the start and at the end."""
    betas: Range = (0.9, 0.999)
    """AdamW's running averages."""
    clip_grad: float | None = Field(3.0, gt=0)
    """Largest norm of the gradient; null: any."""
    ema: Range = (0.996, 1.0)
    """How much of the teacher stays at each iteration, at the start and at the end."""
    student_temperature: float = Field(0.1, gt=0)
    """Temperature of the student's softmax."""
    teacher_temperature: Range = (0.04, 0.04)
    """Temperature of the teacher, before and after teacher_warmup. With sinkhorn it is the ε of the assignment."""
    teacher_warmup: float = Field(0.0, ge=0, le=1)
    """Share of the iterations during which the teacher's temperature rises."""
    centring: Literal["mean", "sinkhorn"] = "mean"
    """What keeps all images from one prototype. mean: DINO's moving average; sinkhorn: Sinkhorn-Knopp on the batch, as
    SwAV and DINOv2 do, which small networks need."""
    same_view: float = Field(0.0, ge=0, le=1)
    """Weight of the class token's loss between a teacher's view and the student's copy of the same crop, which is turned and
    coloured anew; DINO has 0. It helps a training that does not get going."""
    patch_loss: float = Field(0.0, ge=0)
    """Weight of the patch tokens' loss (iBOT): each patch of a large view, masked or not, is to be told as the teacher sees it."""
    patch_tokens: int | None = Field(None, ge=1)
    """At most this many patch tokens an iteration and device enter the patch loss, drawn at random; null: all."""
    mask: Range = (0.1, 0.5)
    """Share of the patches that are masked in a view, at least and at most; in half of the views none is."""
    mask_view: Literal["same", "new"] = "same"
    """same: the student sees the teacher's very view, masked (iBOT), and the patch loss counts masked patches.
    new: the student sees the same crop turned by a quarter, mirrored and coloured anew, and all patches count."""
    checkpoint_every: Annotated[int, NoEffect] = Field(500, ge=1)
    """Iterations between two resume files."""

    @model_validator(mode="after")
    def _possible(self) -> TrainConfig:
        for name, pair in (("betas", self.betas), ("ema", self.ema)):
            if not all(0 <= value <= 1 for value in pair) or (name == "betas" and 1 in pair):
                raise ValueError(f"train.{name} are shares, from 0 to {'below ' * (name == 'betas')}1")
        if min(self.weight_decay) < 0:
            raise ValueError("train.weight_decay is not below 0")
        lowest = MIN_EPSILON if self.centring == "sinkhorn" else 0.0
        if min(self.teacher_temperature) < lowest or min(self.teacher_temperature) <= 0:
            raise ValueError(
                f"train.teacher_temperature is above 0, and at least {MIN_EPSILON} with sinkhorn, which computes exp(1 / temperature)"
            )
        if self.same_view and self.mask_view == "same":
            raise ValueError("train.same_view needs train.mask_view: new, or a view would be compared with itself")
        return self


class DinoConfig(StageConfig):
    """Settings of ``dino``; the defaults are DINO's for ViT-S/16 (Caron et al. 2021), per iteration instead of epoch."""

    distributed_steps: ClassVar[tuple[str, ...]] = ("fit",)
    trial: ClassVar[Mapping[str, Any]] = {
        "arch": "mdp_vit_tiny",
        "image_side": 32,
        "views": {"size": 32, "local_count": 1, "local_size": 16},
        "head": {"hidden": 16, "bottleneck": 8, "prototypes": 12, "patch_prototypes": 10},
        "train": {"iters": 4, "batch": 4, "checkpoint_every": 2},
        "workers": 1,
    }

    arch: str = "vit_small_patch16_224"
    """The network, by timm's name: any vit_*, or mdp_vit_tiny (0.9 million parameters, patch 8) for a CPU."""
    init: WeightsRef | None = None
    """Weights to start from, of the network that ``arch`` names; their positions are resampled to ``views.size``, and their
    normalisation is kept. null: random ones."""
    image_side: int = Field(256, ge=16)
    """Images are kept in memory as squares of this side; views are cut out of them in their true proportions."""
    views: ViewsConfig = ViewsConfig()
    """The views of an image."""
    head: HeadConfig = HeadConfig()
    """The projection heads."""
    train: TrainConfig = TrainConfig()
    """The training."""
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"
    """Mixed precision. auto: bf16 where the device computes faster in it, otherwise off."""
    memory: Annotated[float, NoEffect] = Field(8.0, ge=0)
    """GiB that the images may take, in the device's memory or the machine's; beyond, they are read anew each time."""
    workers: Annotated[int, NoEffect] = Field(4, ge=1)
    """Threads that read images."""
    devices: Annotated[int, NoEffect] = Field(1, ge=1)
    """Processes that train together on this machine, one a GPU (or, on a CPU, one a share of its cores). Results differ in
    their noise, as between any two machines."""
    probe_every: Annotated[int, NoEffect] = Field(500, ge=1)
    """Iterations between two points of the retrieval curve (no labels: does an image's second view find its first?)."""

    @model_validator(mode="after")
    def _ordered(self) -> DinoConfig:
        pairs = {
            "views.scale": self.views.scale,
            "views.local_scale": self.views.local_scale,
            "views.objects.scale": self.views.objects.scale,
            "views.objects.local_scale": self.views.objects.local_scale,
            "train.mask": self.train.mask,
        }
        for name, (low, high) in pairs.items():
            if not 0 <= low <= high:
                raise ValueError(f"{name} is written [smallest, largest], neither below 0")
        for name in ("views.scale", "views.local_scale", "train.mask"):
            if pairs[name][1] > 1:
                raise ValueError(f"{name} is a share, at most 1")
        return self

    def fit_effort(self, images: int) -> float:
        """Pixels of the views that the training sees."""
        pixels = 2 * self.views.size**2 + self.views.local_count * self.views.local_size**2
        return float(self.train.iters * self.train.batch * pixels)
