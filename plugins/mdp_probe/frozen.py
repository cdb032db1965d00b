"""Frozen features as a map over the image: a trained segmenter's, a ViT's or a ResNet's."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from mdp_backbones.preprocess import Normalisation
from mdp_backbones.resnet import ResnetReader
from mdp_backbones.vit import VitReader
from mdp_backbones.weights import LoadedVit, load_backbone
from mdp_core.api import Context, StageError
from mdp_mmengine.launch import join
from mdp_mmengine.weights import load_published
from mdp_probe.settings import SEGMENTER, FeatureConfig

__all__ = ["Features", "ResnetFeatures", "SegmenterFeatures", "VitFeatures", "dilate", "load_features", "load_segmenter"]


class Features(Protocol):
    """A network in evaluation mode, without gradients, whose weights and statistics nothing here changes.

    Attributes:
        width: Number of channels D.
    """

    width: int

    def __call__(self, pixels: Tensor) -> Tensor:
        """Maps uint8 (B, 3, H, W) RGB to float32 (B, D, h, w) that cover the whole image, as an ordinary tensor."""


class SegmenterFeatures:
    """What the last 1×1 convolution of a trained segmenter sees.

    Args:
        folder: A model that ``mdp_mmengine`` published, built by MMSegmentation.
        device: Where it runs.

    Attributes:
        clusters: Number of clusters C that the segmenter predicts.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.model, published = load_published(folder, str(device))
        self.model.requires_grad_(False)
        head = getattr(self.model, "decode_head", None)
        classifier = getattr(head, "conv_seg", None)
        if not isinstance(classifier, nn.Conv2d):
            raise StageError(
                f"{folder}: this segmenter has no decoder whose last layer is a convolution, so its features cannot be probed",
                hint="probe a deeplabv3, or set features: of the probe to weights, for example timm:resnet50.a1_in1k",
            )
        self.classifier = classifier
        self.width = classifier.in_channels
        self.clusters = int(published.facts["clusters"])
        head.conv_seg = nn.Identity().eval()

    def __call__(self, pixels: Tensor) -> Tensor:
        """See ``Features``; an eighth of the image for a DeepLab-v3."""
        preprocess = self.model.get_submodule("data_preprocessor")
        with torch.no_grad():
            return self.model(preprocess({"inputs": list(pixels)}, False)["inputs"], mode="tensor").float()

    def logits(self, features: Tensor) -> Tensor:
        """Returns what the segmenter predicts from features (B, D, h, w): logits (B, C + 1, h, w)."""
        with torch.no_grad():
            return self.classifier(features)


class VitFeatures:
    """Patch tokens after the last block and the final norm; images are brought to the next multiple of the patch first."""

    def __init__(self, reader: VitReader) -> None:
        self.reader, self.width = reader, reader.dim

    def __call__(self, pixels: Tensor) -> Tensor:
        """See ``Features``; one cell a patch."""
        patch = self.reader.multiple
        size = [-(-side // patch) * patch for side in pixels.shape[-2:]]
        inputs = _normalised(pixels.to(self.reader.device), self.reader.normalisation)
        if list(inputs.shape[-2:]) != size:
            inputs = F.interpolate(inputs, size, mode="bilinear", align_corners=False)
        with torch.inference_mode():
            read = self.reader.read(inputs, facets=("tokens",))
            tokens = self.reader.model.norm(read["tokens"].patches)
            features = tokens.transpose(1, 2).unflatten(2, read.grid).contiguous()
        return features.clone()  # what inference mode made cannot take part in a training


class ResnetFeatures:
    """C5, at a 32nd of the image or, dilated, at an eighth."""

    def __init__(self, reader: ResnetReader, dilated: bool) -> None:
        if dilated:
            dilate(reader.model)
        self.reader, self.width = reader, reader.dim

    def __call__(self, pixels: Tensor) -> Tensor:
        """See ``Features``."""
        return self.reader.stages(_normalised(pixels.to(self.reader.device), self.reader.normalisation))[-1].clone()


def load_features(config: FeatureConfig, model: Path | None, context: Context) -> Features:
    """Loads the features that a probe's settings name.

    Args:
        config: The probe's settings.
        model: What the segmenter's ``fit`` left; needed where its features are meant.
        context: Device; its listener takes the note of the weights.

    Raises:
        WeightsError: Weights are missing or do not fit.
        StageError: There is no segmenter, or none whose features can be read.
    """
    if config.features == SEGMENTER:
        return load_segmenter(model, context)
    device = join(context.device).device
    loaded = load_backbone(config.features, Context(context.seed, str(device), context.listener), arch=config.arch)
    if isinstance(loaded, LoadedVit):
        return VitFeatures(loaded.reader)
    return ResnetFeatures(loaded.reader, config.dilated)


def load_segmenter(model: Path | None, context: Context) -> SegmenterFeatures:
    """Loads the segmenter before the probe; raises StageError if there is none."""
    if model is None:
        raise StageError("this probe reads the segmenter, and there is none before it", hint="put the probe after a segmenter")
    return SegmenterFeatures(model, join(context.device).device)


def dilate(resnet: nn.Module) -> None:
    """Takes the strides out of the last two layers of timm's ResNet and dilates what follows, in place (output stride 8).

    The first block of a dilated layer keeps the dilation of the layer before it, as in torchvision and timm.
    """
    for layer, dilation in ((resnet.layer3, 2), (resnet.layer4, 4)):
        for index, block in enumerate(layer):
            if any(isinstance(part, nn.AvgPool2d) for part in block.modules()):
                raise StageError(
                    "this ResNet shrinks its maps by pooling, which cannot be dilated", hint="set dilated: false for the probe"
                )
            strided = [part for part in block.modules() if isinstance(part, nn.Conv2d) and part.stride != (1, 1)]
            # In the first block, what comes up to and with the strided convolution has the dilation of the layer before it.
            before = {id(part) for part in strided}
            for part in block.modules():
                if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3):
                    rate = dilation // 2 if index == 0 and id(part) in before else dilation
                    part.dilation = part.padding = (rate, rate)
            for part in strided:
                part.stride = (1, 1)


def _normalised(pixels: Tensor, normalisation: Normalisation) -> Tensor:
    mean = torch.tensor(normalisation.mean, device=pixels.device)[:, None, None]
    std = torch.tensor(normalisation.std, device=pixels.device)[:, None, None]
    return (pixels.float() / 255 - mean) / std
