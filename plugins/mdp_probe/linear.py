"""Probe ``linear``: a 1×1 convolution on frozen features (paper §4.1, A.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from mmengine.model import BaseModel
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import default_collate

from mdp_backbones.checkpoint import read_checkpoint
from mdp_core.api import Images, LabelMap, Probe, WeightsError
from mdp_mmengine.augmentation import Augmentation
from mdp_mmengine.launch import join
from mdp_mmengine.prediction import label_maps
from mdp_mmengine.scenes import IGNORE_INDEX, Scenes
from mdp_mmengine.schedule import map_schedule
from mdp_mmengine.training import Samples, train
from mdp_probe.frozen import Features, load_features
from mdp_probe.settings import LinearConfig
from mdp_probe.truth import KnownTruth

__all__ = ["LinearProbe", "probe_loss"]

_FILE = "probe.safetensors"


class LinearProbe(Probe[LinearConfig]):
    """Learns true classes from frozen features by SGD, as the segmenter learns clusters: same augmentation, same resume."""

    Config = LinearConfig

    def fit(
        self, images: Images, truth: Sequence[LabelMap | None], classes: int, model: Path | None, folder: Path, work: Path
    ) -> None:
        """Trains the convolution; resumes from ``work``, ending as an undisturbed training would.

        Raises:
            StageError: No image has ground truth, ground truth does not fit its image, a loss is not finite.
            WeightsError: Weights are missing or do not fit.
        """
        fit = self.config.fit
        known = KnownTruth(truth)
        features = load_features(self.config, model, self.context)
        augmentation = Augmentation(fit.size, fit.scale, fit.rotate, fit.flip)
        scenes = Scenes(images.subset(known.indices), known, classes - 1, augmentation, fit.border, labels_are="object classes")

        def sample(index: int) -> dict[str, Tensor]:
            pixels, targets = scenes.draw(index)
            return {
                "inputs": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
                "labels": torch.from_numpy(targets),
            }

        probe = train(
            lambda: _Probe(features, classes),
            "mmengine",
            Samples(len(known), sample, default_collate),
            map_schedule(fit, len(known)),
            context=self.context,
            folder=folder,
            work=work,
        )
        if join(self.context.device).main:
            state = {name: value.detach().cpu().contiguous() for name, value in probe.state_dict().items()}
            save_file(state, folder / _FILE)

    def predict(self, folder: Path, model: Path | None, images: Images) -> Iterator[LabelMap]:
        """Yields one label map an image, in order and at the image's own size."""
        features = load_features(self.config, model, self.context)
        conv = _load(folder / _FILE, features.width)
        conv.to(join(self.context.device).device)
        return label_maps(images, self.config.predict, lambda pixels: conv(features(pixels)), conv.out_channels - 1)


class _Probe(BaseModel):
    """The convolution as a model of MMEngine; the features are no part of it, so nothing trains, stores or moves them."""

    def __init__(self, features: Features, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features.width, classes, 1)
        nn.init.normal_(self.conv.weight, std=0.01)
        nn.init.zeros_(self.conv.bias)
        self.features = features

    def forward(self, inputs: Tensor, labels: Tensor, mode: Literal["loss"] = "loss") -> dict[str, Tensor]:
        """Returns the loss of uint8 (B, 3, H, W) pixels and int64 (B, H, W) labels."""
        return {"loss": probe_loss(self.conv(self.features(inputs)), labels)}


def probe_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean cross entropy over all pixels that count.

    The logits are made larger, not the features: a 1×1 convolution and bilinear interpolation commute.

    Args:
        logits: Floating (B, C, h, w).
        labels: int64 (B, H, W) with 0..C-1 or ``IGNORE_INDEX``.

    Returns:
        float32 scalar; 0 with zero gradients where every pixel is ignored.
    """
    large = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(large, labels, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (labels != IGNORE_INDEX).sum().clamp_min(1)


def _load(path: Path, width: int) -> nn.Conv2d:
    if not path.is_file():
        raise WeightsError(f"{path.parent}: no {path.name}", hint="this is not the folder of a trained linear probe")
    state: dict[str, Any] = dict(read_checkpoint(path).content)
    weight = state.get("conv.weight")
    if weight is None or "conv.bias" not in state or weight.shape[1] != width:
        raise WeightsError(
            f"{path}: this probe was not trained on features of {width} channels",
            hint="predict with the features that it was trained on",
        )
    conv = nn.utils.skip_init(nn.Conv2d, width, weight.shape[0], 1)
    conv.load_state_dict({"weight": weight, "bias": state["conv.bias"]})
    return conv.requires_grad_(False).eval()
