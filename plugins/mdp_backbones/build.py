"""Builds a ViT and gives it the tensors of a file, strictly: recognised layout, the file's own grid of positions, normalisation."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from mdp_backbones import tiny  # noqa: F401 - registers mdp_vit_tiny with timm
from mdp_backbones.checkpoint import Checkpoint
from mdp_backbones.layouts import HEADS, encoder_of, likely_hint
from mdp_backbones.preprocess import IMAGENET, Normalisation
from mdp_backbones.random_vit import random_vit
from mdp_backbones.resnet_layouts import likely_resnet, resnet_tensors
from mdp_backbones.strict import load_strictly
from mdp_backbones.vit import VitReader
from mdp_core.api import Listener, WeightsError

__all__ = ["Network", "Source", "advice_on_arch", "build_vit", "check_vit"]


@dataclass(frozen=True)
class Source:
    """What a reference stands for, before a network is built.

    Attributes:
        where: Names it in messages.
        checkpoint: Its file; None for weights that code makes.
        arch: Its architecture, by timm's name.
        settings: Of the architecture.
        normalisation: None where the file's layout, or timm, tells.
        by_timm: The file is one of timm's own, whose filters know its names.
    """

    where: str
    checkpoint: Checkpoint | None
    arch: str
    settings: Mapping[str, Any]
    normalisation: Normalisation | None
    trained: bool = True
    by_timm: bool = False


@dataclass(frozen=True)
class Network:
    """A network with its weights.

    Attributes:
        model: timm's, float32, on the CPU.
        normalisation: What its pixels are normalised with.
        layout: How the file named its tensors, in words.
    """

    model: nn.Module
    normalisation: Normalisation
    layout: str


def build_vit(source: Source, listener: Listener) -> Network:
    """Builds a ViT of a source; every tensor of its file must fit.

    Args:
        source: Where the weights come from, and as what.
        listener: Is warned where the normalisation is a guess.

    Raises:
        WeightsError: No such architecture, no known layout, or tensors that are missing, too many or of another shape.
    """
    if source.checkpoint is None:
        return Network(random_vit(), IMAGENET, "timm")
    if source.by_timm:
        model = _create(source.arch, source.settings)
        load_strictly(model, _by_timm(source.checkpoint.content, model), where=source.where)
        return Network(model, source.normalisation or IMAGENET, "timm")
    if source.checkpoint.card is not None:
        model = _create(source.arch, source.settings)
        where = f"{source.where} (its card says {source.arch})"
        load_strictly(model, source.checkpoint.content, where=where, hint="file and card do not belong together")
        return Network(model, source.normalisation or IMAGENET, "timm, with a card")
    return _of_layout(source, source.checkpoint.content, listener)


def _by_timm(content: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Gives tensors of timm's own files the names of this timm's model, as timm's loader does."""
    translate = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", lambda state, _: state)
    return {name: value for name, value in translate(dict(content), model).items() if not name.startswith(HEADS)}


def _of_layout(source: Source, content: Mapping[str, Any], listener: Listener) -> Network:
    advice = advice_on_arch(content, source.where)
    _check_arch(source.arch, advice)
    settings = dict(source.settings)
    model = _create(source.arch, settings)
    encoder = encoder_of(content, source.where)
    if encoder.arch_settings:
        model = _create(source.arch, settings := {**settings, **encoder.arch_settings})
    if (side := _native_side(encoder.state, model)) is not None:
        model = _create(source.arch, {**settings, "img_size": side})
    where = f"{source.where} (layout: {encoder.layout}) with arch: {source.arch}"
    load_strictly(model, encoder.state, where=where, hint=advice)
    return Network(model, encoder.normalisation or _normalisation_of(source, listener), encoder.layout)


def _native_side(state: Mapping[str, Tensor], model: nn.Module) -> int | None:
    """Returns the image side that the positions were trained for, if they alone do not fit: their values are kept as they are."""
    wanted = model.state_dict()
    positions, kernel = state.get("pos_embed"), state.get("patch_embed.proj.weight")
    if positions is None or kernel is None or "pos_embed" not in wanted or positions.shape == wanted["pos_embed"].shape:
        return None
    if positions.ndim != 3 or kernel.shape != wanted["patch_embed.proj.weight"].shape:
        return None
    cells = positions.shape[1] - (0 if model.no_embed_class else model.num_prefix_tokens)
    side = math.isqrt(max(cells, 0))
    return side * int(model.patch_embed.patch_size[0]) if side and side * side == cells else None


def _normalisation_of(source: Source, listener: Listener) -> Normalisation:
    """Returns what timm says of a tagged architecture; ImageNet's otherwise, with a warning where timm's weights differ."""
    arch, _, tag = source.arch.partition(".")
    if tag:
        config = timm.get_pretrained_cfg(source.arch)
        return Normalisation(config.mean, config.std)
    others = [
        name
        for name in timm.list_pretrained(f"{arch}.*")
        if Normalisation((config := timm.get_pretrained_cfg(name)).mean, config.std) != IMAGENET
    ]
    if others:
        listener.warn(
            f"{source.where} does not say how its images were normalised; ImageNet's mean and deviation are taken. "
            f"If its images were normalised as those of timm:{others[0]}, write arch: {others[0]}"
        )
    return IMAGENET


def _check_arch(arch: str, hint: str) -> None:
    tagged = "." in arch
    if not timm.is_model(arch) or (tagged and arch not in timm.list_pretrained()):
        close = difflib.get_close_matches(arch, timm.list_pretrained() if tagged else timm.list_models(), 1)
        raise WeightsError(f"arch: timm knows no {arch}" + (f", did you mean {close[0]}?" if close else ""), hint=hint)


def check_vit(arch: str) -> None:
    """Raises WeightsError unless timm builds this architecture as a ViT that can be read; costs no memory."""
    with torch.device("meta"):
        VitReader(_create(arch, {}))


def _create(arch: str, settings: Mapping[str, Any]) -> nn.Module:
    if not timm.is_model(arch):
        raise WeightsError(f"arch: timm {timm.__version__} knows no {arch}", hint="is it written by a newer mdp, or misspelt?")
    try:
        return timm.create_model(arch, pretrained=False, num_classes=0, dynamic_img_size=True, **settings)
    except TypeError as error:
        raise WeightsError(f"{arch} is not a Vision Transformer that takes images of any size", hint=str(error)) from error


def advice_on_arch(content: Mapping[str, Any], where: str) -> str:
    """Returns an advice on ``arch:`` for a checkpoint of any layout."""
    try:
        return likely_hint(encoder_of(content, where).state)
    except WeightsError as no_vit:
        try:
            likely = likely_resnet(resnet_tensors(content, where).tensors)
        except WeightsError:
            return f"{no_vit.message}; {no_vit.hint}" if no_vit.hint else no_vit.message
        return f"it holds a ResNet: try arch: {likely}" if likely else "it holds a ResNet of unusual layers"
