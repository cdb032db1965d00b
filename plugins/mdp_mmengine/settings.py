"""Settings that plugins share which train or predict label maps; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mdp_core.api import NoEffect, Settings

__all__ = ["TRIAL_TRAINING", "InputSize", "MapPrediction", "MapTraining"]

TRIAL_TRAINING: Mapping[str, Any] = {"iters": 4, "batch": 4, "size": 64, "checkpoint_every": 2, "workers": 0}
"""A training of seconds on any machine, for ``StageConfig.trial``."""


class MapTraining(Settings):
    """Training on images and their label maps: how long, with which SGD, and how both are augmented."""

    epochs: int = Field(45, ge=1)
    """Passes over the training images. Batches run across the border of two passes, so that all of them are full."""
    iters: int | None = Field(None, ge=1)
    """Length of the training in batches; overrides ``epochs``."""
    batch: int = Field(16, ge=1)
    """Images in a batch, over all devices together."""
    lr: float = Field(gt=0)
    """Learning rate at the start; constant up to ``lr_step``."""
    lr_step: float = Field(gt=0)
    """When the learning rate falls: after so many epochs or, below 1, after this fraction of the training.

    With ``iters`` it keeps its proportion: after iters × lr_step / epochs batches. At or beyond the end: never.
    """
    lr_gamma: float = Field(0.1, gt=0, le=1)
    """What the learning rate is multiplied by at ``lr_step``."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay of SGD, on all trained parameters."""
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
    checkpoint_every: Annotated[int, NoEffect] = Field(500, ge=1)
    """Batches between two checkpoints that an interrupted training resumes from."""
    workers: Annotated[int, NoEffect] = Field(2, ge=0)
    """Processes that read and augment images; 0 = the training process itself."""

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

    def pixels(self, images: int) -> float:
        """Returns how many pixels the training on so many images sees."""
        return float(self.length(images) * self.batch * self.size**2)


class InputSize(Settings):
    """At which size images go through a network that is not being trained."""

    size: int | None = Field(None, ge=32, le=4096)
    """Side of the square that images are squashed to, as the authors' code does (512); None: their own size (paper, A.3)."""
    side: int | None = Field(None, ge=32, le=4096)
    """Longest allowed short side: larger images are shrunk to it, keeping their aspect. Not together with ``size``.

    Set it where photographs have many megapixels: at their own size they need gigabytes each.
    """
    batch: Annotated[int, NoEffect] = Field(8, ge=1)
    """Most images that go through together; only images of one size do."""

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.size is not None and self.side is not None:
            raise ValueError("size and side exclude each other: size squashes to a square, side keeps the aspect")
        return self


class MapPrediction(InputSize):
    """Prediction of label maps."""

    upsample: Literal["logits", "labels"] = "logits"
    """How predictions reach the image's size: bilinear logits, then the best label; or, as the authors' code does, the
    best label at the network's input size, then nearest neighbour. The same thing where images keep their size."""
    probabilities: bool = False
    """Also keep the probabilities, as small as the network makes them (DeepLab: an eighth of its input), for a later step
    that asks (dense CRF)."""
