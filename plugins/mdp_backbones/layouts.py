"""How published checkpoints of self-supervised ViTs name their tensors, and what timm calls them.

Two tables, because any way of keeping an encoder goes with any way of naming its tensors: ``CONTAINERS`` say where in a file
the encoder is and what lies beside it, ``LAYOUTS`` how its tensors are named. Both are recognised by names that are there, in
the order of the tables, never by trying; what is neither the encoder's nor known to be left out is an error, not skipped.

Read from the projects' own code: facebookresearch/dino, dinov2, dinov3, moco-v3 and mae, bytedance/ibot.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import Tensor

from mdp_backbones.preprocess import IMAGENET, Normalisation
from mdp_backbones.resnet_layouts import few
from mdp_core.api import WeightsError

__all__ = ["CONTAINERS", "LAYOUTS", "Container", "Encoder", "Layout", "encoder_of", "likely_arch", "likely_hint"]

StateDict = dict[str, Tensor]

WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""
HEADS = ("head.", "head_dist.", "fc.", "projector.", "predictor.", "linear.", "dino_head.", "ibot_head.")
"""Classifiers, projections and prototypes, which are left out wherever they are."""
MOCO_HEADS = {384: {"num_heads": 12}}
"""Width → settings: MoCo v3's ViT-S has twelve heads, all others' six; no tensor's shape tells."""


@dataclass(frozen=True)
class Container:
    """Where in a file the encoder is.

    Attributes:
        name: Whose files are like this.
        part: Key of the mapping that holds it; None: the file's own tensors.
        prefix: What its names begin with, wrappers aside.
        beside: Beginnings of names of other things in the same part.
        normalisation: What these networks are fed with; None where files like this come from anywhere.
        by_width: Width of the encoder → settings of its architecture that differ from timm's.
    """

    name: str
    part: str | None
    prefix: str = ""
    beside: tuple[str, ...] = ()
    normalisation: Normalisation | None = None
    by_width: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)


CONTAINERS = (
    Container("the teacher in a checkpoint of DINO, iBOT or DINOv2", "teacher", "backbone.", normalisation=IMAGENET),
    Container("the student in a checkpoint of DINO or iBOT", "student", "backbone.", normalisation=IMAGENET),
    Container("a checkpoint of MoCo v3", "state_dict", "base_encoder.", ("momentum_encoder.",), IMAGENET, MOCO_HEADS),
    Container("the momentum encoder of MoCo v3", "state_dict", "momentum_encoder.", (), IMAGENET, MOCO_HEADS),
    Container("'state_dict' with a backbone", "state_dict", "backbone."),
    Container("'state_dict', as iBOT's releases", "state_dict"),
    Container("'teacher' alone", "teacher", normalisation=IMAGENET),
    Container("'model', as MAE's and DeiT's releases", "model", normalisation=IMAGENET),
    Container("a state dict with a backbone", None, "backbone."),
    Container("a state dict", None),
)


@dataclass(frozen=True)
class Layout:
    """One way of naming an encoder's tensors.

    Attributes:
        name: Whose it is.
        marks: Names that are all there in this layout, and together in none of the earlier ones.
        translate: Gives the tensors timm's names.
        dropped: Beginnings of names that serve training alone.
        normalisation: As in ``Container``.
    """

    name: str
    marks: tuple[str, ...]
    translate: Callable[[StateDict], StateDict]
    dropped: tuple[str, ...] = ()
    normalisation: Normalisation | None = None


def _same(state: StateDict) -> StateDict:
    return state


def _dinov2(state: StateDict) -> StateDict:
    """The giant's SwiGLU has other names in timm."""
    return _renamed(state, {"mlp.w12.": "mlp.fc1.", "mlp.w3.": "mlp.fc2."})


def _dinov2_registers(state: StateDict) -> StateDict:
    """Timm's registers networks add positions to the patches alone: the one of CLS goes into CLS."""
    state = _dinov2(state)
    positions = state.pop("pos_embed")
    registers, cls = state.pop("register_tokens"), state["cls_token"]
    return {**state, "cls_token": cls + positions[:, :1], "pos_embed": positions[:, 1:], "reg_token": registers}


def _dinov3(state: StateDict) -> StateDict:
    """Keys have no bias in DINOv3 (it is masked), and in most sizes queries and values have learnt none: timm then has none."""
    periods = state.pop("rope_embed.periods", None)
    if periods is not None and not torch.allclose(
        periods.float(), 100 ** (torch.arange(len(periods)) / len(periods)), rtol=1e-2
    ):
        raise WeightsError("this DINOv3 has rotary positions of another base than the published ones, which timm cannot build")
    parts = {name: state.pop(name).chunk(3) for name in list(state) if name.endswith("attn.qkv.bias")}
    state = {name: value for name, value in state.items() if not name.endswith(".bias_mask")}
    if any(query.any() or value.any() for query, _, value in parts.values()):
        for name, (query, _, value) in parts.items():
            attention = name.removesuffix("qkv.bias")
            state |= {f"{attention}q_bias": query, f"{attention}v_bias": value}
    swiglu = {"mlp.w1.": "mlp.fc1_g.", "mlp.w2.": "mlp.fc1_x.", "mlp.w3.": "mlp.fc2."}
    return _renamed(state, {"ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2", "storage_tokens": "reg_token", **swiglu})


def _renamed(state: StateDict, names: Mapping[str, str]) -> StateDict:
    def renamed(name: str) -> str:
        for before, after in names.items():
            name = name.replace(before, after)
        return name

    return {renamed(name): value for name, value in state.items()}


LAYOUTS = (
    Layout("DINOv3", ("storage_tokens", "mask_token"), _dinov3, ("mask_token", "local_cls_norm.")),
    Layout("DINOv2 with registers", ("register_tokens", "mask_token"), _dinov2_registers, ("mask_token",), IMAGENET),
    Layout("DINOv2", ("mask_token", "blocks.0.ls1.gamma"), _dinov2, ("mask_token",), IMAGENET),
    Layout("MAE with its decoder", ("mask_token", "decoder_embed.weight"), _same, ("mask_token", "decoder_"), IMAGENET),
    Layout("timm, DINO, iBOT, MAE, MoCo v3", ("blocks.0.norm1.weight",), _same, ("masked_embed",)),
)


@dataclass(frozen=True)
class Encoder:
    """A ViT's tensors by timm's names, without heads.

    Attributes:
        state: The tensors.
        layout: Where and how they were named, in words.
        normalisation: What the network is fed with, where the layout tells.
        arch_settings: Settings of the architecture that the layout implies.
    """

    state: StateDict
    layout: str
    normalisation: Normalisation | None
    arch_settings: Mapping[str, Any]


def encoder_of(content: Mapping[str, Any], where: str) -> Encoder:
    """Finds a ViT in a checkpoint and gives its tensors timm's names.

    Args:
        content: The checkpoint as stored.
        where: Says in messages what was read, for example ``file:dino.pth``.

    Raises:
        WeightsError: No known layout, or tensors that the recognised one does not explain.
    """
    found = next(((c, state) for c in CONTAINERS if (state := _inside(c, content, where)) is not None), None)
    if found is None:
        raise WeightsError(
            f"{where}: no ViT is in it: no known layout; it has {few(map(str, content), 4) or 'nothing'}",
            hint=f"known are {'; '.join(layout.name for layout in LAYOUTS)}; alone, or in "
            f"{'; '.join(container.name for container in CONTAINERS)}",
        )
    container, state = found
    state = _unchunked(state)
    layout = next((layout for layout in LAYOUTS if all(mark in state for mark in layout.marks)), None)
    if layout is None:
        block = [name for name in state if name.startswith("blocks.0.")]
        raise WeightsError(
            f"{where}: {container.name} holds a network whose blocks have unknown names: {few(block, 6)}",
            hint=f"known are {'; '.join(layout.name for layout in LAYOUTS)}",
        )
    kept = {name: value for name, value in state.items() if not name.startswith((*layout.dropped, *HEADS))}
    try:
        state = layout.translate(kept)
    except WeightsError as error:
        raise WeightsError(f"{where}: {error.message}", hint=error.hint) from error
    width = int(state["norm.weight"].shape[0]) if "norm.weight" in state else 0
    return Encoder(
        state,
        f"{layout.name}; {container.name}",
        layout.normalisation or container.normalisation,
        container.by_width.get(width, {}),
    )


def _inside(container: Container, content: Mapping[str, Any], where: str) -> StateDict | None:
    """Returns the encoder's tensors without the prefix, or None if the file is not like this container."""
    part = content if container.part is None else content.get(container.part)
    if not isinstance(part, Mapping):
        return None
    state = {str(name): value for name, value in part.items() if isinstance(value, Tensor)}
    for wrapper in WRAPPERS * 2:  # either may be around the other, and DDP wraps one network of two
        state = {name.removeprefix(wrapper): value for name, value in state.items()}
    needed = (f"{container.prefix}blocks.0.", f"{container.prefix}patch_embed.")
    if not all(any(name.startswith(start) for name in state) for start in needed):
        return None
    known = (container.prefix, *container.beside, *HEADS)
    unknown = [name for name in state if not name.startswith(known)]
    if unknown:
        raise WeightsError(
            f"{where}: {few(unknown)} are neither the encoder's nor known to be beside it (layout: {container.name})",
            hint="save the encoder's own tensors alone",
        )
    return {name.removeprefix(container.prefix): v for name, v in state.items() if name.startswith(container.prefix)}


def _unchunked(state: StateDict) -> StateDict:
    """Removes the chunk of ``blocks.CHUNK.BLOCK.…``, as DINOv2 trains with FSDP; its block numbers count all chunks' blocks."""
    return {re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", name): value for name, value in state.items()}


_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1536: "giant"}
_DINO = ("vit_small_patch16", "vit_small_patch8", "vit_base_patch16", "vit_base_patch8")


def likely_arch(state: Mapping[str, Tensor]) -> str | None:
    """Returns timm's name of the architecture that most probably has these tensors (by timm's names), or None."""
    kernel = state.get("patch_embed.proj.weight")
    if kernel is None or kernel.ndim != 4 or int(kernel.shape[0]) not in _SIZES:
        return None
    name = f"vit_{_SIZES[int(kernel.shape[0])]}_patch{int(kernel.shape[-1])}"
    if "blocks.0.gamma_1" in state:
        plus = "_plus" if "blocks.0.mlp.fc1_g.weight" in state else ""
        size, patch = name.split("_patch")
        name = f"{size}{plus}_patch{patch}_dinov3{'_qkvb' if 'blocks.0.attn.q_bias' in state else ''}"
    elif "blocks.0.ls1.gamma" in state:
        name += "_reg4_dinov2" if "reg_token" in state else "_dinov2"
    else:
        name += "_224.dino" if name in _DINO else "_224"
    return name if timm.is_model(name.partition(".")[0]) else None


def likely_hint(state: Mapping[str, Tensor]) -> str:
    """Returns an advice on ``arch:`` for tensors by timm's names."""
    kernel = state.get("patch_embed.proj.weight")
    if kernel is None or kernel.ndim != 4:
        return "it has no patch_embed.proj.weight, so it is no plain ViT"
    likely = likely_arch(state)
    found = f"its patch embedding has width {kernel.shape[0]} and patch {kernel.shape[-1]}"
    return f"{found}: try arch: {likely}" if likely else found
