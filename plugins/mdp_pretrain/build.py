"""Builds the student: a backbone of timm's whose positions are those of the large views, with random or given weights."""

from __future__ import annotations

import difflib

import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

from mdp_backbones.checkpoint import read_checkpoint
from mdp_backbones.preprocess import IMAGENET, Normalisation
from mdp_backbones.strict import load_strictly
from mdp_backbones.vit import VitReader
from mdp_backbones.weights import load_vit
from mdp_core.api import Context, StageError, WeightsError, weights_file
from mdp_pretrain.dino import Network
from mdp_pretrain.settings import DinoConfig

_TRY = "arch: vit_small_patch16_224, vit_base_patch16_224, mdp_vit_tiny … (see timm.list_models('vit_*'))"
SAME = 1e-3
"""Largest difference between the features of two networks that are the same one, in units of their spread."""


def build_network(config: DinoConfig, context: Context) -> tuple[Network, Normalisation]:
    """Builds the student with its heads, on the CPU, and says how its pixels are normalised.

    Raises:
        StageError: timm does not know the architecture, or it is no ViT with a class token.
        WeightsError: The initial weights are missing or are another network's.
    """
    patches = config.train.patch_loss > 0
    masks = patches and config.train.mask[1] > 0
    network = Network(build_backbone(config), config.head, patches=patches, masks=masks)
    if config.init is None:
        return network, IMAGENET
    return network, start_from(config.init, network.backbone, config, context)


def build_backbone(config: DinoConfig) -> nn.Module:
    """Builds the network alone, untrained.

    Raises:
        StageError: timm does not know it, or it takes no images of any size.
    """
    if not timm.is_model(config.arch):  # also of "hf-hub:…", which would be fetched
        close = difflib.get_close_matches(config.arch, timm.list_models(), 1)
        raise StageError(f"arch: timm knows no {config.arch}" + (f", did you mean {close[0]}?" if close else ""), hint=_TRY)
    try:
        return timm.create_model(config.arch, num_classes=0, dynamic_img_size=True, img_size=config.views.size)
    except (RuntimeError, TypeError, ValueError) as error:
        raise StageError(
            f"arch: {config.arch} cannot be built as a ViT for {config.views.size} px ({error})", hint=_TRY
        ) from error


def start_from(ref: str, backbone: nn.Module, config: DinoConfig, context: Context) -> Normalisation:
    """Gives the backbone the weights of ``init``; their positions are resampled to the grid of the large views.

    Raises:
        WeightsError: They are missing, or are another network's than ``arch``.
    """
    card = read_checkpoint(weights_file(ref)[0]).card if ref.startswith("file:") else None
    arch = config.arch if ref.startswith("file:") and card is None else None
    reader = load_vit(ref, context, arch=arch).reader
    model = reader.model.cpu()
    state = dict(model.state_dict())
    ours = getattr(backbone, "pos_embed", None)
    if ours is not None and "pos_embed" in state and ours.shape[-1] == state["pos_embed"].shape[-1]:
        state["pos_embed"] = resample_abs_pos_embed(
            state["pos_embed"],
            new_size=list(backbone.patch_embed.grid_size),
            old_size=list(model.patch_embed.grid_size),
            num_prefix_tokens=0 if model.no_embed_class else model.num_prefix_tokens,
            antialias=model.reg_token is not None,  # as the reader does
        )
    named = card.arch if card else ref.removeprefix("timm:") if ref.startswith("timm:") else "that of the weights"
    hint = f"arch must name the network of the weights: {named}"
    load_strictly(backbone, state, where=f"init: {ref}, with arch: {config.arch},", hint=hint)
    if not _alike(reader, backbone, config.views.size):
        raise WeightsError(
            f"init: {ref} fits arch: {config.arch}, but computes something else (heads, activation …)", hint=hint
        )
    return reader.normalisation


def _alike(reader: VitReader, backbone: nn.Module, size: int) -> bool:
    """Whether a network gives the features that the reader gives, where sizes of tensors alone do not tell."""
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    if size % reader.patch:
        return True  # told of later, as a mistake of the sizes
    expected, found = reader.embed(pixels), VitReader(backbone.eval()).embed(pixels)
    backbone.train()
    return bool((found - expected).abs().max() <= SAME * expected.std())
