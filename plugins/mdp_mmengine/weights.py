"""Weights: published models (safetensors + JSON), and the ResNet backbones that training starts from."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from mdp_backbones.checkpoint import read_checkpoint
from mdp_backbones.preprocess import IMAGENET, Normalisation
from mdp_backbones.resnet_layouts import resnet_tensors
from mdp_backbones.strict import load_strictly
from mdp_core.api import Listener, WeightsError, file_sha256, weights_file
from mdp_mmengine.draws import own_random_states
from mdp_mmengine.models import Scope, build_model, merge, plain, without_sync

__all__ = ["Published", "load_published", "load_resnet", "load_strictly", "publish"]

State = dict[str, torch.Tensor]
_WEIGHTS, _CONFIG = "model.safetensors", "model.json"
_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
"""timm's architectures that are the same networks as MM's ResNet; others may fit its tensors and yet compute something else."""


@dataclass(frozen=True)
class Published:
    """What lies beside a model's weights.

    Attributes:
        scope: MM library that builds the model.
        config: The model's configuration.
        facts: What the plugin wants to know at prediction time (JSON values), for example the number of clusters.
        parts: Module whose import registers the parts that the configuration names; what loads a model imports it first, so
            that a model can be read without knowing the plugin that trained it (a probe does).
    """

    scope: Scope
    config: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    parts: str | None = None


def publish(folder: Path, model: nn.Module, published: Published) -> None:
    """Writes ``model.safetensors`` (the bare state dict) and ``model.json``; under torchrun on rank 0 alone."""
    if os.environ.get("RANK", "0") != "0":
        return
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    save_file(state, folder / _WEIGHTS)
    content = {
        "scope": published.scope,
        "parts": published.parts,
        "config": plain(published.config),
        "facts": dict(published.facts),
    }
    (folder / _CONFIG).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@own_random_states()  # networks are initialised before their weights are loaded
def load_published(folder: Path, device: str, overrides: Mapping[str, Any] | None = None) -> tuple[nn.Module, Published]:
    """Loads a published model in evaluation mode; where it names no ``parts``, the caller has imported what builds it.

    Args:
        folder: The model's folder.
        device: Where the model shall run.
        overrides: Merged into its configuration, for example another ``test_cfg``.

    Raises:
        WeightsError: Files are missing or damaged, or weights and configuration do not fit.
    """
    for name in (_WEIGHTS, _CONFIG):
        if not (folder / name).is_file():
            raise WeightsError(f"{folder}: no {name}", hint="this is not the folder of a trained model")
    content = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    published = Published(content["scope"], merge(content["config"], overrides or {}), content["facts"], content.get("parts"))
    if published.parts is not None:
        _import(published.parts, folder)
    model = without_sync(build_model(published.config, published.scope))
    load_strictly(model, read_checkpoint(folder / _WEIGHTS).content, where=str(folder / _WEIGHTS))
    model.to(torch.device(device))
    model.eval()
    return model, published


def _import(module: str, folder: Path) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise WeightsError(
            f"{folder}: the model is built by {module}, which cannot be imported ({error})",
            hint="install the plugin that trained it",
        ) from error


def load_resnet(parts: Mapping[str, nn.Module], ref: str, listener: Listener) -> None:
    """Loads ResNet weights into the parts of an MM model that make up the ResNet.

    MM, torchvision, timm and the self-supervised methods name the tensors of a ResNet alike (``conv1, bn1, layer1.0.conv1 …``); what
    is around them in each published layout, ``mdp_backbones.resnet_layouts`` knows. Heads are dropped, every other tensor must fit.

    Args:
        parts: Key prefix → module: ``{"": model.backbone}``, or for a C4 network
            ``{"": model.backbone, "layer4.": model.roi_head.shared_head.layer4}``.
        ref: ``none`` (keep the random weights), ``file:PATH`` (.pth or .safetensors, with or without ``#sha256=HEX``) or
            ``timm:NAME``.
        listener: Is told the sha256 of the file, and warned where they were trained with another normalisation than ImageNet's.

    Raises:
        WeightsError: The weights are missing, unreadable or not those of this ResNet.
    """
    if ref == "none":
        return
    found = _resnet(ref, listener)
    longest_first = sorted(parts, key=len, reverse=True)
    split: dict[str, State] = {prefix: {} for prefix in parts}
    for key, value in found.tensors.items():
        prefix = next((prefix for prefix in longest_first if key.startswith(prefix)), None)
        if prefix is not None:
            split[prefix][key.removeprefix(prefix)] = value
    for prefix, module in parts.items():
        load_strictly(module, split[prefix], where=ref)
    listener.note("backbone weights", f"{ref} sha256:{found.sha256}")
    if not _near(found.normalisation, IMAGENET):
        listener.warn(
            f"{ref} was trained on images normalised with mean {found.normalisation.mean} and std {found.normalisation.std}, "
            "but this network normalises with ImageNet's: what its frozen layers see is not what they know"
        )


@dataclass(frozen=True)
class _Found:
    tensors: State
    normalisation: Normalisation
    sha256: str


def _resnet(ref: str, listener: Listener) -> _Found:
    scheme, _, name = ref.partition(":")
    if scheme == "file":
        path, expected = weights_file(ref)
        checkpoint = read_checkpoint(path, expected)
        found = resnet_tensors(checkpoint.content, f"file:{path}")
        if checkpoint.card is None:
            return _Found(found.tensors, found.layout.normalisation, file_sha256(path))
        _check_plain(checkpoint.card.arch, ref)
        return _Found(found.tensors, checkpoint.card.normalisation, file_sha256(path))
    if scheme != "timm":
        raise WeightsError(f"{ref}: backbone weights are written none, file:PATH or timm:NAME")
    from mdp_backbones.sources import timm_weights

    weights = timm_weights(name)
    _check_plain(name, ref)
    if weights.cached() is None:
        listener.warn(f"weights {ref} are not in the hub's cache and are being downloaded")
    path = weights.fetch()
    normalisation = Normalisation(tuple(weights.config.mean), tuple(weights.config.std))
    return _Found(resnet_tensors(read_checkpoint(path).content, ref).tensors, normalisation, file_sha256(path))


def _check_plain(arch: str, ref: str) -> None:
    if arch.partition(".")[0] not in _RESNETS:
        raise WeightsError(
            f"{ref} is a {arch}, not a plain ResNet as the networks that are trained here have",
            hint=f"use weights of {', '.join(_RESNETS)}, for example timm:resnet50.a1_in1k",
        )


def _near(one: Normalisation, other: Normalisation) -> bool:
    """Whether no pixel differs by much more than rounding: SwAV's red has a deviation of 0.228, ImageNet's 0.229."""
    return all(abs(a - b) <= 0.005 for a, b in zip((*one.mean, *one.std), (*other.mean, *other.std), strict=True))
