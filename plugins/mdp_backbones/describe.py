"""What can be said of weights without using them: origin, licence, size, sha256, and whether they are here.

Neither timm nor torch is imported for weights of timm that stand in the table of ``known.py``, nor for built-in ones. A name that
does not (misspelt, a network of another kind, or of a newer timm) is looked up in timm itself, and files are opened with torch.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import constants
from safetensors import SafetensorError, safe_open

from mdp_backbones.known import known_weights
from mdp_backbones.sources import BUILTINS, TimmWeights, builtin, in_hub_cache, timm_weights
from mdp_core.api import WeightsError, WeightsInfo, weights_file

if TYPE_CHECKING:
    from mdp_backbones.checkpoint import Checkpoint

__all__ = ["describe", "fetch", "list_here", "parameters_of"]

FLOAT32 = 4
"""Bytes."""
_REPAIR_FILE = "fetch or export it again; if the new contents are meant, correct #sha256="
_REPAIR_BUILTIN = "install mdp-platform again"


def describe(ref: str) -> WeightsInfo | None:
    """Describes weights; None where they are of a kind that is not known here.

    Raises:
        WeightsError: There are no such weights.
    """
    scheme, _, name = ref.partition(":")
    if scheme == "timm":
        return _of_known(name) or _of_timm(timm_weights(name))
    if scheme == "builtin":
        return _of_builtin(name)
    return _of_file(ref) if scheme == "file" else None


def fetch(ref: str) -> WeightsInfo | None:
    """Makes sure that weights are here, and describes them; None as in ``describe``.

    Raises:
        WeightsError: There are no such weights, or they cannot be fetched; says what to place where.
    """
    scheme, _, name = ref.partition(":")
    if scheme == "timm":
        timm_weights(name).fetch()
    elif scheme == "builtin":
        builtin(name)
    return describe(ref)


def list_here() -> list[WeightsInfo]:
    """Describes the built-in weights, and those of timm that lie in the hub's cache."""
    found = [_of_builtin(name) for name in BUILTINS]
    folders = {
        folder.name.removeprefix("models--").replace("--", "/") for folder in Path(constants.HF_HUB_CACHE).glob("models--*")
    }
    if folders:
        import timm

        for name in timm.list_pretrained():
            weights = timm_weights(name)
            if weights.repository in folders and weights.cached() is not None:
                found.append(_of_timm(weights))
    return found


def _of_known(name: str) -> WeightsInfo | None:
    known = known_weights().get(name)
    if known is None:
        return None
    origin, path = f"https://huggingface.co/{known.repository}", in_hub_cache(known.repository)
    return _hub_info(name, origin, known.licence, "", known.parameters, path)


def _of_timm(weights: TimmWeights) -> WeightsInfo:
    config = weights.config
    licence, description = config.license or "unknown", config.description or ""
    return _hub_info(weights.name, weights.origin, licence, description, parameters_of(weights.name), weights.cached())


def _hub_info(name: str, origin: str, licence: str, description: str, parameters: int, path: Path | None) -> WeightsInfo:
    fetch = f"run `mdp weights fetch timm:{name}`"
    return WeightsInfo(
        ref=f"timm:{name}",
        origin=origin,
        licence=licence,
        description=description,
        parameters=parameters,
        size=path.stat().st_size if path else parameters * FLOAT32,
        path=path,
        here=path is not None,
        sha256=_recorded(path) if path else None,
        remedy=f"delete {path.resolve()} and {path}, and {fetch}"
        if path
        else f"{fetch}; without Internet it says what to place where",
    )


def _recorded(path: Path) -> str | None:
    """Returns the sha256 that the hub gave: large files lie in the cache under it, and a link leads there."""
    return path.resolve().name if re.fullmatch(r"[0-9a-f]{64}", path.resolve().name) else None


def _of_builtin(name: str) -> WeightsInfo:
    if name not in BUILTINS:
        builtin(name)  # says which there are
    weights = BUILTINS[name]
    common = {"ref": f"builtin:{name}", "licence": weights.licence, "description": weights.description}
    if weights.path is None:
        return WeightsInfo(origin="made by code", parameters=weights.parameters, **common)
    origin, here = "part of mdp-platform", weights.path.is_file()
    if not here:
        return WeightsInfo(origin=origin, path=weights.path, here=False, remedy=_REPAIR_BUILTIN, **common)
    parameters, problem = _header(weights.path)
    return WeightsInfo(
        origin=origin,
        parameters=parameters,
        size=weights.path.stat().st_size,
        path=weights.path,
        sha256=weights.sha256,
        problem=problem,
        remedy=_REPAIR_BUILTIN,
        **common,
    )


def _of_file(ref: str) -> WeightsInfo:
    path, sha256 = weights_file(ref)
    checkpoint, parameters, problem = _read(path)
    card = checkpoint.card if checkpoint else None
    return WeightsInfo(
        ref=ref,
        origin=(card.trained_by if card else "") or str(path),
        licence=(card.licence if card else "") or "unknown",
        description=card.description if card else "",
        parameters=parameters,
        size=path.stat().st_size if path.is_file() else None,
        path=path,
        here=path.is_file(),
        sha256=sha256,
        problem=problem,
        remedy=_REPAIR_FILE,
    )


def _header(path: Path) -> tuple[int | None, str]:
    """Reads how many numbers a safetensors file holds, and what is wrong with it, without reading them."""
    try:
        with safe_open(path, framework="np") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys()), ""  # noqa: SIM118 - no dict
    except (SafetensorError, OSError) as error:
        return None, f"{path}: cannot be read as safetensors ({error})"


def _read(path: Path) -> tuple[Checkpoint | None, int | None, str]:
    """Reads a file as far as it goes: the checkpoint, the number of its backbone's parameters, and what is wrong with it."""
    from mdp_backbones.checkpoint import read_checkpoint
    from mdp_backbones.layouts import encoder_of
    from mdp_backbones.resnet_layouts import resnet_tensors

    try:
        checkpoint = read_checkpoint(path)
    except WeightsError as error:
        return None, None, error.message
    for tensors in (lambda: encoder_of(checkpoint.content, "").state, lambda: resnet_tensors(checkpoint.content, "").tensors):
        try:
            return checkpoint, sum(tensor.numel() for tensor in tensors().values()), ""
        except WeightsError:
            continue
    return checkpoint, None, ""


def parameters_of(name: str) -> int:
    """Returns the number of parameters of one of timm's networks without its classifier; costs no memory."""
    import timm
    import torch

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in timm.create_model(name, num_classes=0).parameters())
