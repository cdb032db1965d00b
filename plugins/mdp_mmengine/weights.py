"""Weights: published models (safetensors + JSON), and the ResNet backbones that training starts from."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mdp_core.api import Listener, WeightsError, file_sha256
from mdp_mmengine.models import Scope, build_model, merge, plain, without_sync

__all__ = ["Published", "load_published", "load_resnet", "load_strictly", "publish"]

State = dict[str, torch.Tensor]
_WEIGHTS, _CONFIG = "model.safetensors", "model.json"
_PREFIXES = ("module.encoder_q.", "module.base_encoder.", "backbone.", "module.")
_HEADS = ("fc.", "head.", "classifier.", "last_linear.", "projector.", "predictor.")


@dataclass(frozen=True)
class Published:
    """What lies beside a model's weights.

    Attributes:
        scope: MM library that builds the model.
        config: The model's configuration.
        facts: What the plugin wants to know at prediction time (JSON values), for example the number of clusters.
    """

    scope: Scope
    config: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)


def publish(folder: Path, model: nn.Module, published: Published) -> None:
    """Writes ``model.safetensors`` (the bare state dict) and ``model.json``; under torchrun on rank 0 alone."""
    if os.environ.get("RANK", "0") != "0":
        return
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    save_file(state, folder / _WEIGHTS)
    content = {"scope": published.scope, "config": plain(published.config), "facts": dict(published.facts)}
    (folder / _CONFIG).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_published(folder: Path, device: str, overrides: Mapping[str, Any] | None = None) -> tuple[nn.Module, Published]:
    """Loads a published model in evaluation mode; the caller has imported the MM library that builds it.

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
    published = Published(content["scope"], merge(content["config"], overrides or {}), content["facts"])
    model = without_sync(build_model(published.config, published.scope))
    load_strictly(model, _read_file(folder / _WEIGHTS), where=str(folder / _WEIGHTS))
    model.to(torch.device(device))
    model.eval()
    return model, published


def load_strictly(module: nn.Module, state: Mapping[str, torch.Tensor], *, where: str) -> None:
    """Loads a state dict of which every tensor must fit.

    Raises:
        WeightsError: Names the first missing, unexpected and misshapen keys, and how many there are.
    """
    wanted = module.state_dict()
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    problems = {
        "missing": sorted(wanted.keys() - state.keys() - optional),
        "unexpected": sorted(state.keys() - wanted.keys()),
        "misshapen": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
            for name in sorted(wanted.keys() & state.keys())
            if wanted[name].shape != state[name].shape
        ],
    }
    if any(problems.values()):
        told = [
            f"{len(keys)} {kind} ({', '.join(keys[:3])}{', …' * (len(keys) > 3)})" for kind, keys in problems.items() if keys
        ]
        raise WeightsError(
            f"{where} does not fit the network: {'; '.join(told)}", hint="are these weights of this architecture?"
        )
    module.load_state_dict({name: state.get(name, wanted[name]) for name in wanted})


def load_resnet(parts: Mapping[str, nn.Module], ref: str, listener: Listener) -> None:
    """Loads ResNet weights into the parts of an MM model that make up the ResNet.

    MM, torchvision, timm and MoCo name the tensors of a ResNet alike (``conv1, bn1, layer1.0.conv1 …``). Prefixes of
    MoCo v2 (``module.encoder_q.``) and v3 (``module.base_encoder.``) are removed, classifier and projection heads dropped.

    Args:
        parts: Key prefix → module: ``{"": model.backbone}``, or for a C4 network
            ``{"": model.backbone, "layer4.": model.roi_head.shared_head.layer4}``.
        ref: ``none`` (keep the random weights), ``file:PATH`` (.pth or .safetensors) or ``timm:NAME``.
        listener: Is told the sha256 of the weights.

    Raises:
        WeightsError: The weights are missing, unreadable or not those of this ResNet.
    """
    if ref == "none":
        return
    scheme, _, name = ref.partition(":")
    if scheme == "file":
        path = Path(name).expanduser()
        state, digest = _read_file(path), file_sha256(path)
    elif scheme == "timm":
        state = _read_timm(name)
        digest = _sha256(state)
    else:
        raise WeightsError(f"{ref}: backbone weights are written none, file:PATH or timm:NAME")
    state = _resnet_keys(state)
    longest_first = sorted(parts, key=len, reverse=True)
    split: dict[str, State] = {prefix: {} for prefix in parts}
    for key, value in state.items():
        prefix = next((prefix for prefix in longest_first if key.startswith(prefix)), None)
        if prefix is not None:
            split[prefix][key.removeprefix(prefix)] = value
    for prefix, module in parts.items():
        load_strictly(module, split[prefix], where=ref)
    listener.note("backbone weights", f"{ref} sha256:{digest}")


def _resnet_keys(state: State) -> State:
    for prefix in _PREFIXES:
        if any(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return {key: value for key, value in state.items() if not key.startswith(_HEADS)}


def _read_file(path: Path) -> State:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{path}: cannot be read as weights ({str(error).splitlines()[0]})",
            hint="a .safetensors file, or a .pth that torch.load opens with weights_only=True; download it again if it was cut off",
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds {type(content).__name__}, not a state dict")
    return {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}


def _read_timm(name: str) -> State:
    import timm

    if not timm.is_model(name):
        raise WeightsError(f"timm:{name}: timm {timm.__version__} knows no such model", hint="for example timm:resnet50")
    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except (OSError, RuntimeError, ValueError) as error:
        pretrained = timm.models.get_pretrained_cfg(name)
        source = pretrained.hf_hub_id if pretrained else None
        where = f"https://huggingface.co/{source}/resolve/main/model.safetensors" if source else f"timm's page of {name}"
        raise WeightsError(
            f"timm:{name}: the pretrained weights are not on this machine and cannot be fetched ({type(error).__name__})",
            hint=f"download {where} and write file:PATH, or copy the Hugging Face cache ({_hub_cache()}) from a machine that has them",
        ) from error


def _hub_cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return HF_HUB_CACHE


def _sha256(state: State) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
