"""How published checkpoints of self-supervised ResNets name their tensors, and the one table that all readers of them share.

Inside, all of them name a ResNet's tensors alike (``conv1, bn1, layer1.0.conv1 … layer4.2.bn3``, as torchvision and timm do). They
differ in what is around it: the part of the file (``state_dict``, ``model``, ``teacher``), a prefix, a second network (a momentum
encoder), heads and queues. Whatever is known by name is left out; anything else is an error, never skipped in silence.

What the table says was read from the projects' own code: facebookresearch/moco, moco-v3, swav and dino, WXinlong/DenseCL,
zhirongw/lemniscate.pytorch (InstDisc) and HobbitLong/PyContrast (InstDisc, MoCo, PIRL, InfoMin). All of them halve the resolution in
a bottleneck's 3 × 3 convolution, as torchvision and timm do ("v1.5"), none in the first 1 × 1 convolution as Caffe's networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mdp_backbones.preprocess import IMAGENET, Normalisation
from mdp_core.api import WeightsError

__all__ = ["LAYOUTS", "PLAIN", "ResnetLayout", "ResnetTensors", "few", "likely_resnet", "resnet_tensors"]

StateDict = dict[str, Tensor]

PARTS = ("state_dict", "teacher", "model", "student")
"""Parts of a checkpoint that may hold the network, the best first; a file without them is a state dict itself."""
WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""
HEADS = ("fc.", "head.", "classifier.", "last_linear.", "projector.", "projection_head.", "prototypes.", "predictor.")
"""Classifiers, projections and prototypes that sit inside a network, beside its layers."""
SWAV = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.228, 0.224, 0.225))
"""SwAV and DeepCluster-v2 divide red by 0.228, not ImageNet's 0.229, in training and in their evaluations."""


@dataclass(frozen=True)
class ResnetLayout:
    """One way of naming.

    Attributes:
        name: Whose it is.
        prefix: What the network's tensors have in front of their names, wrappers aside.
        beside: Beginnings of the names of tensors that belong to other things and are left out.
        markers: Beginnings of names of which one must occur for this layout to be meant; by default any name will do.
        normalisation: How the images were normalised that the network has seen.
    """

    name: str
    prefix: str
    beside: tuple[str, ...] = ()
    markers: tuple[str, ...] = ("",)
    normalisation: Normalisation = IMAGENET


_OPENSELFSUP = ("neck.", "head.", "encoder_q.", "encoder_k.", "online_net.", "target_net.", "queue")

PLAIN = ResnetLayout("torchvision, timm, InstDisc, DenseCL, DINO", "")
"""The network's own names and nothing else but a classifier."""

LAYOUTS = (
    ResnetLayout("MoCo v1, v2", "encoder_q.", ("encoder_k.", "queue")),
    ResnetLayout("MoCo v3", "base_encoder.", ("momentum_encoder.", "predictor.")),
    ResnetLayout("MoCo v3, momentum encoder alone", "momentum_encoder."),
    ResnetLayout("DenseCL and OpenSelfSup (in training), DINO (in training)", "backbone.", _OPENSELFSUP),
    ResnetLayout(
        "DenseCL (in training), query encoder alone", "encoder_q.0.", ("encoder_q.1.", "encoder_k.", "head.", "queue")
    ),
    ResnetLayout("InstDisc, MoCo, PIRL, InfoMin of PyContrast", "encoder.", ("head.", "head_jig.")),
    ResnetLayout("SwAV, DeepCluster v2", "", markers=("prototypes.", "projection_head."), normalisation=SWAV),
    PLAIN,
)
"""Tried in this order; the first whose stem is there is the one."""

_BASIC: dict[tuple[int, ...], str] = {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet34"}
_BOTTLENECK: dict[tuple[int, ...], str] = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152"}
_WIDE: dict[tuple[int, ...], str] = {(3, 4, 6, 3): "wide_resnet50_2", (3, 4, 23, 3): "wide_resnet101_2"}


@dataclass(frozen=True)
class ResnetTensors:
    """A ResNet's tensors by their plain names, without heads, and the layout that they had."""

    tensors: StateDict
    layout: ResnetLayout


def resnet_tensors(content: Mapping[str, Any], where: str) -> ResnetTensors:
    """Finds the ResNet in a checkpoint.

    Args:
        content: The checkpoint as stored: a state dict, or a mapping with one in one of its ``PARTS``.
        where: Says in messages what was read, for example ``file:moco.pth``.

    Raises:
        WeightsError: There is no ResNet in it, or there are tensors beside it that no layout explains.
    """
    state = _unwrapped(_part(content))
    for layout in LAYOUTS:
        if _is(layout, state):
            return ResnetTensors(_without_heads(state, layout, where), layout)
    names = ", ".join(list(state)[:4]) or "nothing"
    raise WeightsError(
        f"{where}: no ResNet is in it: no stem (conv1.weight) under any known prefix; it has {names}{' …' * (len(state) > 4)}",
        hint=f"known layouts: {'; '.join(layout.name for layout in LAYOUTS)}; Detectron2's and Caffe's names are not among them",
    )


def likely_resnet(tensors: Mapping[str, Tensor]) -> str | None:
    """Returns timm's name of the plain ResNet that has these tensors (by plain names), or None."""
    blocks = tuple(len({name.split(".")[1] for name in tensors if name.startswith(f"layer{layer}.")}) for layer in (1, 2, 3, 4))
    stem, first, second = (tensors.get(name) for name in ("conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight"))
    if stem is None or first is None or second is None or (stem.shape[0], second.shape[1]) != (64, first.shape[0]):
        return None  # a deep stem, a multiple of the usual width, or groups
    if "layer1.0.conv3.weight" not in tensors:
        return _BASIC.get(blocks)
    return (_WIDE if first.shape[0] == 128 else _BOTTLENECK).get(blocks)


def _part(content: Mapping[str, Any]) -> StateDict:
    found = next((content[part] for part in PARTS if isinstance(content.get(part), Mapping)), content)
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _unwrapped(state: StateDict) -> StateDict:
    for wrapper in WRAPPERS * 2:  # either may be around the other
        if state and all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): value for name, value in state.items()}
    return state


def _is(layout: ResnetLayout, state: StateDict) -> bool:
    stem = any(f"{layout.prefix}{name}" in state for name in ("conv1.weight", "conv1.0.weight"))
    return stem and any(name.startswith(layout.markers) for name in state)


def _without_heads(state: StateDict, layout: ResnetLayout, where: str) -> StateDict:
    inside = {name.removeprefix(layout.prefix): value for name, value in state.items() if name.startswith(layout.prefix)}
    unknown = [name for name in state if not name.startswith((layout.prefix, *layout.beside))]
    if unknown:
        raise WeightsError(
            f"{where}: {few(unknown)} are neither of the ResNet nor known to be beside it (layout of {layout.name})",
            hint="take the network's own tensors out of the checkpoint and save them under torchvision's names",
        )
    return {name: value for name, value in inside.items() if not name.startswith(HEADS)}


def few(names: Iterable[str], most: int = 3) -> str:
    """Returns the first names and how many there are: ``a, b, c, … (12)``."""
    listed = list(names)
    return ", ".join(listed[:most]) + (f", … ({len(listed)})" if len(listed) > most else "")
