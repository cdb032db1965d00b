"""Loads backbones: ``timm:NAME``, ``file:PATH`` (``file:PATH#sha256=HEX`` insists on its contents) and ``builtin:NAME``.

Loading is strict: a checkpoint fits its architecture exactly, or it is an error. Pickles are read with ``weights_only=True``.
Vision Transformers take images of any size that is a multiple of their patch, ResNets of any size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mdp_backbones.build import Source, advice_on_arch, build_vit, check_vit
from mdp_backbones.checkpoint import Checkpoint, read_checkpoint
from mdp_backbones.positions import Positions
from mdp_backbones.preprocess import IMAGENET, Normalisation
from mdp_backbones.resnet import ResnetReader, is_resnet, load_resnet_reader
from mdp_backbones.sources import builtin, timm_weights
from mdp_backbones.vit import Precision, VitReader
from mdp_core.api import Context, Listener, WeightsError, weights_file

__all__ = ["LoadedResnet", "LoadedVit", "WeightsFacts", "load_backbone", "load_vit", "state_sha256"]


@dataclass(frozen=True)
class WeightsFacts:
    """What a run records of the weights it used.

    Attributes:
        name: As written in the recipe.
        sha256: Of the names, shapes, types and values of the state, whatever the file format.
        trained: False for weights that are known to have learnt nothing.
        layout: How the file named its tensors, in words.
    """

    name: str
    sha256: str
    trained: bool
    layout: str = "timm"

    def __str__(self) -> str:
        return f"{self.name}{'' if self.trained else ' (untrained)'} sha256:{self.sha256}"


@dataclass(frozen=True)
class LoadedVit:
    """A ViT ready to use, and the facts of its weights."""

    reader: VitReader
    facts: WeightsFacts


@dataclass(frozen=True)
class LoadedResnet:
    """A ResNet ready to use, and the facts of its weights."""

    reader: ResnetReader
    facts: WeightsFacts


def load_vit(
    ref: str, context: Context, *, arch: str | None = None, precision: Precision = "fp32", positions: Positions = "size"
) -> LoadedVit:
    """Loads a ViT and notes its weights in the run's record.

    Args:
        ref: ``timm:NAME``, ``file:PATH`` or ``builtin:NAME``.
        context: Gives the device; its listener takes the note ``weights``.
        arch: timm architecture; needed by ``file:`` unless the file has a card, not allowed otherwise.
        precision: Type of weights and activations.
        positions: How learnt positions are resampled to the grid of an image.

    Raises:
        WeightsError: The weights are missing, cannot be read, do not fit the architecture, or are no ViT's.
    """
    source = _source(ref, arch, context.listener, vit=True)
    if is_resnet(source.arch):
        raise WeightsError(
            f"{source.arch} is not a Vision Transformer, and {ref} shall be read as one",
            hint="use weights of a ViT, for example timm:vit_small_patch16_224.dino",
        )
    return _load_vit(ref, source, context, precision, positions)


def load_backbone(
    ref: str, context: Context, *, arch: str | None = None, precision: Precision = "fp32", positions: Positions = "size"
) -> LoadedVit | LoadedResnet:
    """Loads a ViT or a ResNet, as its architecture says, and notes its weights in the run's record.

    Args:
        ref: As in ``load_vit``.
        context: As in ``load_vit``.
        arch: As in ``load_vit``.
        precision: As in ``load_vit``.
        positions: As in ``load_vit``; a ResNet has none.

    Raises:
        WeightsError: The weights are missing, cannot be read or do not fit the architecture.
    """
    source = _source(ref, arch, context.listener)
    if not is_resnet(source.arch) or source.checkpoint is None:
        return _load_vit(ref, source, context, precision, positions)
    reader = load_resnet_reader(
        source.checkpoint.content,
        source.arch,
        source.where,
        settings=source.settings,
        normalisation=source.normalisation,
        precision=precision,
    )
    facts = WeightsFacts(ref, state_sha256(reader.model.state_dict()), source.trained)
    return LoadedResnet(reader, _noted(facts, reader.model, context))


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Returns the sha256 over names, types, shapes and values of a state, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _load_vit(ref: str, source: Source, context: Context, precision: Precision, positions: Positions) -> LoadedVit:
    with torch.random.fork_rng(devices=[]):  # building a network draws random numbers; the caller's are left alone
        network = build_vit(source, context.listener)
    model = network.model.float().eval().requires_grad_(False)
    facts = WeightsFacts(ref, state_sha256(model.state_dict()), source.trained, network.layout)
    return LoadedVit(VitReader(model, network.normalisation, precision, positions), _noted(facts, model, context))


def _noted(facts: WeightsFacts, model: nn.Module, context: Context) -> WeightsFacts:
    model.to(context.device)
    context.listener.note("weights", str(facts))
    return facts


def _source(ref: str, arch: str | None, listener: Listener, *, vit: bool = False) -> Source:
    """Finds out what a reference stands for; fetches nothing that cannot be read afterwards (``vit``: as a ViT)."""
    scheme, _, name = ref.partition(":")
    if scheme == "file":
        path, sha256 = weights_file(ref)
        return _of_file(read_checkpoint(path, sha256), f"file:{path}", arch)
    if arch is not None:
        raise WeightsError(f"arch: {arch} was given with weights: {ref}", hint="arch belongs to file: weights; remove it")
    if scheme == "timm":
        weights = timm_weights(name)
        if weights.cached() is None:
            if vit or not is_resnet(name):
                check_vit(name)
            listener.warn(f"weights {ref} are not in the hub's cache and are being downloaded")
        normalisation = Normalisation(weights.config.mean, weights.config.std)
        return Source(ref, read_checkpoint(weights.fetch()), name, {}, normalisation, by_timm=True)
    if scheme != "builtin":
        raise WeightsError(f"there are no weights {ref}", hint="weights are written timm:NAME, file:PATH or builtin:NAME")
    shipped = builtin(name)
    if shipped.path is None:
        return Source(ref, None, "random", {}, IMAGENET, shipped.trained)
    return replace(_of_file(read_checkpoint(shipped.path, shipped.sha256), ref, None), trained=shipped.trained)


def _of_file(checkpoint: Checkpoint, where: str, arch: str | None) -> Source:
    card = checkpoint.card
    if card is None:
        if arch is None:
            raise WeightsError(
                f"weights {where} need arch: the name of a timm architecture", hint=advice_on_arch(checkpoint.content, where)
            )
        return Source(where, checkpoint, arch, {}, None)
    if arch not in (None, card.arch):
        raise WeightsError(f"arch: {arch} was given, but {where} says that it is a {card.arch}", hint="remove arch")
    return Source(where, checkpoint, card.arch, card.arch_settings, card.normalisation)
