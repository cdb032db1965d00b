"""Loads Vision Transformers: ``timm:NAME``, ``file:PATH`` and ``builtin:random``.

Loading is strict: a checkpoint fits its architecture exactly, or it is an error. Pickles are read with ``weights_only=True``.
All models are float32, in eval mode, and take images of any size that is a multiple of their patch.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants, get_session, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import PretrainedCfg
from torch import Tensor, nn

from mdp_core.api import Context, WeightsError
from mdp_vit.random_vit import random_vit
from mdp_vit.vit import VitFeatures

StateDict = dict[str, Tensor]

LIKELY_ARCHS = {
    (192, 16): "vit_tiny_patch16_224",
    (384, 16): "vit_small_patch16_224.dino",
    (384, 8): "vit_small_patch8_224.dino",
    (384, 14): "vit_small_patch14_dinov2",
    (768, 16): "vit_base_patch16_224.dino",
    (768, 8): "vit_base_patch8_224.dino",
    (768, 14): "vit_base_patch14_dinov2",
    (1024, 16): "vit_large_patch16_224",
    (1024, 14): "vit_large_patch14_dinov2",
}
"""(width, patch) of a patch embedding → the timm architecture that most probably has it."""
HEADS = ("head.", "fc.", "projector.", "linear.")
"""Prefixes of classifier and projection heads, which are dropped."""


@dataclass(frozen=True)
class WeightsFacts:
    """What a run records of the weights it used.

    Attributes:
        name: As written in the recipe.
        sha256: Of the names, shapes, types and values of the state, whatever the file format.
        trained: False for weights that are known to have learnt nothing.
    """

    name: str
    sha256: str
    trained: bool

    def __str__(self) -> str:
        return f"{self.name}{'' if self.trained else ' (untrained)'} sha256:{self.sha256}"


@dataclass(frozen=True)
class LoadedVit:
    """A ViT ready to use, and the facts of its weights."""

    features: VitFeatures
    facts: WeightsFacts


def load_vit(ref: str, context: Context, *, arch: str | None = None) -> LoadedVit:
    """Loads a ViT and notes its weights in the run's record.

    Args:
        ref: ``timm:NAME``, ``file:PATH`` or ``builtin:random``.
        context: Gives the device; its listener takes the note ``weights``.
        arch: timm architecture; needed by ``file:``, not allowed otherwise.

    Raises:
        WeightsError: The weights are missing, cannot be read or do not fit the architecture.
    """
    with torch.random.fork_rng(devices=[]):  # building a network draws random numbers; the caller's are left alone
        model = _build(ref, arch, context)
    features = VitFeatures(model.to(dtype=torch.float32).eval().requires_grad_(False))
    facts = WeightsFacts(ref, state_sha256(model.state_dict()), trained=not ref.startswith("builtin:"))
    model.to(context.device)
    context.listener.note("weights", str(facts))
    return LoadedVit(features, facts)


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Returns the sha256 over names, types, shapes and values of a state, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _build(ref: str, arch: str | None, context: Context) -> nn.Module:
    scheme, _, name = ref.partition(":")
    if scheme == "file":
        return _from_file(Path(name).expanduser(), arch)
    if arch is not None:
        raise WeightsError(f"arch: {arch} was given with weights: {ref}", hint="arch belongs to file: weights; remove it")
    if scheme == "timm":
        return _from_timm(name, context)
    if ref == "builtin:random":
        return random_vit()
    raise WeightsError(f"there are no weights {ref}", hint="the only built-in weights are builtin:random (untrained)")


def _from_timm(name: str, context: Context) -> nn.Module:
    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        similar = difflib.get_close_matches(name, timm.list_pretrained(), n=5)
        hint = f"did you mean {', '.join(similar)}?" if similar else "see timm.list_pretrained() for the names"
        raise WeightsError(f"timm has no weights {name}", hint=hint) from error
    cached = try_to_load_from_cache(config.hf_hub_id, "model.safetensors") if config.hf_hub_id else None
    if not isinstance(cached, str):
        if config.hf_hub_id and not _hub_answers():
            raise _missing(name, config)
        context.listener.warn(f"weights timm:{name} are not in the hub's cache and are being downloaded")
    overlay = {"file": cached} if isinstance(cached, str) and not config.custom_load else None
    try:
        return _create(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except (OSError, HfHubHTTPError) as error:
        raise _missing(name, config) from error
    except RuntimeError as error:
        raise WeightsError(
            f"timm cannot load timm:{name} ({error})", hint="see timm.list_pretrained() for other weights"
        ) from error


def _hub_answers() -> bool:
    """Asks once, briefly: without a network the hub's client tries for more than a minute before it gives up."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:
        return False
    return True


def _missing(name: str, config: PretrainedCfg) -> WeightsError:
    repository = config.hf_hub_id or "?"
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    official = f", or {config.url}," if config.url else ""
    return WeightsError(
        f"weights timm:{name} are not in the cache and cannot be downloaded",
        hint=f"either run `hf download {repository} model.safetensors` on a machine with Internet and copy its folder "
        f"{folder.name} to {folder.parent}{os.sep}; or fetch "
        f"https://huggingface.co/{repository}/resolve/main/model.safetensors{official} and write weights: file:PATH, arch: {name}",
    )


def _from_file(path: Path, arch: str | None) -> nn.Module:
    state = _backbone(_read(path))
    if arch is None:
        raise WeightsError(f"weights file:{path} need arch: the name of a timm architecture", hint=_likely(state))
    try:
        model = _create(arch, pretrained=False)
    except RuntimeError as error:
        raise WeightsError(f"arch: timm knows no {arch} ({error})", hint=_likely(state)) from error
    _check_fit(state, model.state_dict(), path, arch)
    model.load_state_dict(state, strict=True)
    return model


def _create(name: str, **settings: Any) -> nn.Module:
    try:
        return timm.create_model(name, num_classes=0, dynamic_img_size=True, **settings)
    except TypeError as error:
        raise WeightsError(f"{name} is not a Vision Transformer that takes images of any size", hint=str(error)) from error


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such weights file") from error
    except (OSError, RuntimeError, EOFError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read as weights ({error})", hint="is the download complete?") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: is no checkpoint of tensors alone",
            hint="it is damaged, or it needs to run code to load, which is refused: save its state_dict() as .safetensors",
        ) from error
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{path}: holds a {type(loaded).__name__}, not a state dict", hint="save model.state_dict()")
    return loaded


def _backbone(loaded: Mapping[str, Any]) -> StateDict:
    """Finds the backbone in a checkpoint: the teacher's if there is one, without wrappers' prefixes and without heads."""
    for part in ("teacher", "student", "state_dict", "model"):
        if isinstance(loaded.get(part), Mapping):
            loaded = loaded[part]
            break
    state = {name: value for name, value in loaded.items() if isinstance(value, Tensor)}
    for prefix in ("module.", "backbone."):
        if any(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return {name: value for name, value in state.items() if not name.startswith(HEADS)}


def _check_fit(state: StateDict, wanted: Mapping[str, Tensor], path: Path, arch: str) -> None:
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    misshapen = [
        f"{name} {tuple(state[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    problems = [
        f"{title}: {'; '.join(names[:6])}{f'; and {len(names) - 6} more' if len(names) > 6 else ''}"
        for title, names in (("of another shape", misshapen), ("missing", missing), ("unexpected", unexpected))
        if names
    ]
    if problems:
        raise WeightsError(f"{path} does not fit arch: {arch}: {' | '.join(problems)}", hint=_likely(state))


def _likely(state: StateDict) -> str:
    kernel = state.get("patch_embed.proj.weight")
    if kernel is None or kernel.ndim != 4:
        return "the file holds no patch_embed.proj.weight, so it is no plain ViT with timm's or DINO's names"
    width, patch = int(kernel.shape[0]), int(kernel.shape[-1])
    likely = LIKELY_ARCHS.get((width, patch))
    found = f"its patch embedding has width {width} and patch {patch}"
    return f"{found}: try arch: {likely}" if likely else found
