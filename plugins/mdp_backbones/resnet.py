"""Features of a ResNet: the maps C2 … C5, and their global average as an embedding.

For self-supervised ResNets (MoCo, SwAV, InstDisc, InfoMin, DenseCL, DINO: see ``resnet_layouts``) as baselines of a ViT. The network
is ``timm``'s ResNet (https://arxiv.org/abs/1512.03385), which is torchvision's where the names agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import timm
import torch
from timm.models import is_model_in_modules
from timm.models.resnet import ResNet
from torch import Tensor, nn

from mdp_backbones.preprocess import IMAGENET, Normalisation
from mdp_backbones.resnet_layouts import PLAIN, likely_resnet, resnet_tensors
from mdp_backbones.strict import load_strictly
from mdp_core.api import WeightsError

__all__ = ["ResnetReader", "is_resnet", "load_resnet_reader"]

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class ResnetReader:
    """Reads features from a ResNet.

    Args:
        model: A ``timm`` ResNet; it is put into eval mode.
        normalisation: Of the pixels that it takes.
        precision: Of its convolutions; normalisation layers and results are float32 in any case.

    Attributes:
        multiple: Sides of the input must be multiples of it: 1, any size will do.
        dim: Length of an embedding, the number of channels of C5.

    Raises:
        WeightsError: The model is no ResNet of timm.
    """

    multiple: ClassVar[int] = 1

    def __init__(self, model: nn.Module, normalisation: Normalisation = IMAGENET, precision: Precision = "fp32") -> None:
        if not isinstance(model, ResNet):
            raise WeightsError(f"{type(model).__name__} is not a ResNet", hint="use a timm resnet*, for example resnet50")
        self.model = model.eval()
        self.normalisation = normalisation
        self.precision = precision
        self.dim = int(model.num_features)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def stages(self, pixels: Tensor, last: int = 5) -> tuple[Tensor, ...]:
        """Computes the maps at strides 4, 8, 16 and 32; what lies behind the last one wanted is not run.

        Args:
            pixels: float32 (B, 3, H, W), normalised.
            last: Where to stop: 2 (C2 alone) … 5 (C2, C3, C4 and C5).

        Returns:
            C2 … C``last``: float32 (B, channels, ⌈H / stride⌉, ⌈W / stride⌉) each, after the ReLU.
        """
        model, maps = self.model, []
        with self._autocast():
            features = model.maxpool(model.act1(model.bn1(model.conv1(pixels))))
            for layer in (model.layer1, model.layer2, model.layer3, model.layer4)[: last - 1]:
                features = layer(features)
                maps.append(features.float())
        return tuple(maps)

    @torch.inference_mode()
    def embed(self, pixels: Tensor) -> Tensor:
        """Computes the global average of C5: float32 (B, dim) of float32 (B, 3, H, W) normalised pixels."""
        with self._autocast():
            features = self.model.forward_features(pixels)
        return features.float().mean(dim=(2, 3))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=_DTYPES[self.precision], enabled=self.precision != "fp32")


def is_resnet(arch: str) -> bool:
    """Returns whether timm builds this architecture, with or without a tag, with its ResNet class."""
    return is_model_in_modules(arch, ["resnet"])


def load_resnet_reader(
    content: Mapping[str, Any],
    arch: str,
    where: str,
    *,
    settings: Mapping[str, Any] | None = None,
    normalisation: Normalisation | None = None,
    precision: Precision = "fp32",
) -> ResnetReader:
    """Makes a reader of a checkpoint in any of the known layouts; every tensor must fit.

    Args:
        content: The checkpoint as stored: tensors, or a mapping that holds them in a part such as ``state_dict``.
        arch: timm architecture for which ``is_resnet`` holds, for example ``resnet50``.
        where: Says in messages what was read, for example ``file:moco.pth``.
        settings: Of the architecture, for timm.
        normalisation: Of the pixels; None: the layout's, which is ImageNet's for all but SwAV; for plain names with an
            ``arch`` that has a tag (``resnet34.ra4_e3600_r224_in1k``) what timm says of that.
        precision: As in ``ResnetReader``.

    Returns:
        The reader, on the CPU, its weights float32.

    Raises:
        WeightsError: The checkpoint holds no ResNet, unknown tensors beside one, or one of another architecture.
    """
    found = resnet_tensors(content, where)
    likely = likely_resnet(found.tensors)
    hint = f"it has the layers of arch: {likely}" if likely else "these are not a plain ResNet's layers"
    model = _build(arch, settings or {}, hint)
    load_strictly(model, found.tensors, where=f"{where} ({found.layout.name}) with arch: {arch}", hint=hint)
    if normalisation is None and found.layout is PLAIN and "." in arch:
        normalisation = Normalisation(model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
    return ResnetReader(model, normalisation or found.layout.normalisation, precision)


def _build(arch: str, settings: Mapping[str, Any], hint: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # building a network draws random numbers; the caller's are left alone
        try:
            return timm.create_model(arch, pretrained=False, num_classes=0, **settings).requires_grad_(False)
        except (RuntimeError, TypeError) as error:
            raise WeightsError(f"arch: timm cannot build {arch} ({error})", hint=hint) from error
