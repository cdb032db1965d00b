"""DINO: self-distillation with no labels (Caron et al. 2021, https://arxiv.org/abs/2104.14294).

A student sees all views of an image, a teacher the large ones; on the class token the student's distribution over prototypes
is to be the teacher's, for every pair of different views. The teacher is the moving average of the student. What keeps all images
from one answer is centring: DINO's moving average, or Sinkhorn-Knopp on the batch (SwAV, https://arxiv.org/abs/2006.09882, and
DINOv2, https://arxiv.org/abs/2304.07193).

The patch loss asks the same of patch tokens. With ``mask_view: same`` it is iBOT's (https://arxiv.org/abs/2111.07832): the
student sees the teacher's view with some patches masked, and is to tell those. With ``new`` the student's large views
are copies of the teacher's crops, turned by a quarter, mirrored and coloured anew, so that a patch is to look alike under these
changes: a stronger signal for networks too small to learn from masks alone.

Heads, centres, Sinkhorn-Knopp, schedules and the moving average are Lightly's (MIT).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from lightly.loss.swav_loss import sinkhorn
from lightly.models.modules import DINOProjectionHead
from lightly.models.modules.center import Center
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mdp_core.api import StageError
from mdp_pretrain.settings import DinoConfig, HeadConfig, TrainConfig, ViewsConfig
from mdp_pretrain.views import Batch, Crops, crop, recolour, turn

Finish = Callable[[Crops], Tensor]
"""Colours crops and normalises them: what the network takes."""


@dataclass(frozen=True)
class Turn:
    """How a student's large view lies to the teacher's: turned by quarters, then mirrored."""

    quarters: int = 0
    mirrored: bool = False


@dataclass(frozen=True)
class Views:
    """What one iteration looks at; lists run over views, tensors over images.

    Attributes:
        teacher: Two float32 (B, 3, S, S).
        student: Two likewise: the same tensors (``mask_view: same``), or new views of the same crops.
        turns: Where the student's patches lie.
        local: float32 (L · B, 3, s, s), or None; view by view.
        mask: bool (2 · B, rows, columns) of the student's large views, or None.
        chosen: int64 (n,), which of the 2 · B · rows · columns patches of the student enter the patch loss, or None.
    """

    teacher: list[Tensor]
    student: list[Tensor]
    turns: list[Turn]
    local: Tensor | None
    mask: Tensor | None
    chosen: Tensor | None = None


def make_views(
    batch: Batch, views: ViewsConfig, train: TrainConfig, patch: int, mean: Tensor, std: Tensor, draw: torch.Generator
) -> Views:
    """Draws all views of a batch."""
    count = len(batch.pixels)
    objects = torch.rand(count, generator=draw) < (views.objects.share if batch.boxes is not None else 0.0)
    device = batch.pixels.device

    def finish(crops: Crops) -> Tensor:
        coloured = recolour(crops, views.colour, mean, draw)
        return (coloured - mean.to(device)[:, None, None]) / std.to(device)[:, None, None]

    large = [crop(batch, views, local=False, objects=objects, draw=draw) for _ in range(2)]
    teacher = [finish(crops) for crops in large]
    if train.mask_view == "same" or (not train.patch_loss and not train.same_view):
        turns, student = [Turn(), Turn()], teacher
    else:
        mirror = 0.5 if views.flip == "horizontal" else 0.0
        turns = [Turn(int(torch.randint(4, (), generator=draw)), bool(torch.rand((), generator=draw) < mirror)) for _ in large]
        student = [finish(crops.turned(t.quarters, t.mirrored)) for crops, t in zip(large, turns, strict=True)]
    small = [finish(crop(batch, views, local=True, objects=objects, draw=draw)) for _ in range(views.local_count)]
    side = views.size // patch
    mask = draw_mask(2 * count, side, train.mask, draw).to(device) if train.patch_loss and train.mask[1] > 0 else None
    chosen = choose_patches(mask, 2 * count * side * side, train, draw).to(device) if train.patch_loss else None
    return Views(teacher, student, turns, torch.cat(small) if small else None, mask, chosen)


def choose_patches(mask: Tensor | None, patches: int, train: TrainConfig, draw: torch.Generator) -> Tensor:
    """Returns which patches enter the patch loss: the masked ones under ``mask_view: same``, else all; a sample if too many."""
    masked_alone = mask is not None and train.mask_view == "same"
    eligible = mask.flatten().nonzero()[:, 0].cpu() if masked_alone else torch.arange(patches)
    if not len(eligible):  # by chance no view is masked
        eligible = torch.arange(patches)
    if train.patch_tokens is None or len(eligible) <= train.patch_tokens:
        return eligible
    return eligible[torch.randperm(len(eligible), generator=draw)[: train.patch_tokens]]


def draw_mask(count: int, side: int, share: tuple[float, float], draw: torch.Generator) -> Tensor:
    """Draws which patches are masked: bool (count, side, side); none in half of the views, elsewhere a share of ``share``."""
    wanted = share[0] + (share[1] - share[0]) * torch.rand(count, generator=draw)
    wanted = torch.where(torch.rand(count, generator=draw) < 0.5, 0.0, wanted)
    ranks = torch.rand(count, side * side, generator=draw).argsort(dim=1).argsort(dim=1)
    return (ranks < (wanted * side * side).round()[:, None]).view(count, side, side)


class Network(nn.Module):
    """A backbone with its two heads.

    Args:
        backbone: A timm ViT with a class token, made with ``dynamic_img_size=True`` and without a classifier.
        head: Sizes of the heads.
        patches: Whether there is a patch head.
        masks: Whether there is a mask token.
    """

    def __init__(self, backbone: nn.Module, head: HeadConfig, *, patches: bool, masks: bool) -> None:
        super().__init__()
        if not isinstance(backbone, VisionTransformer) or backbone.cls_token is None:
            raise StageError(
                f"{type(backbone).__name__} cannot be pretrained here: DINO needs a Vision Transformer with a class token",
                hint="arch: vit_small_patch16_224, vit_base_patch16_224, mdp_vit_tiny …",
            )
        self.backbone = backbone
        dim = backbone.embed_dim
        self.class_head = _head(dim, head, head.prototypes)
        self.patch_head = _head(dim, head, head.patch_prototypes) if patches else None
        self.mask_token = nn.Parameter(torch.zeros(dim)) if masks else None

    def tokens(self, pixels: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Runs the backbone: the class token (B, dim) and patch tokens (B, rows, columns, dim) after the final norm."""
        net = self.backbone
        patches = net.patch_embed(pixels)
        if mask is not None:
            patches = torch.where(mask[..., None], self.mask_token.to(patches.dtype), patches)
        grid = patches.shape[1:3]
        tokens = net.norm(net.blocks(net.norm_pre(net._pos_embed(patches))))
        return tokens[:, 0], tokens[:, net.num_prefix_tokens :].unflatten(1, grid)

    def forward(self, views: Views) -> tuple[Tensor, Tensor | None]:
        """The student's pass: logits of the class token of all views, view by view, and those of the chosen patches."""
        classes, patches = self.tokens(torch.cat(views.student), views.mask)
        if views.local is not None:
            classes = torch.cat([classes, self.tokens(views.local)[0]])
        if self.patch_head is None or views.chosen is None:
            return self.class_head(classes).float(), None
        return self.class_head(classes).float(), self.patch_head(patches.flatten(0, 2)[views.chosen]).float()


def _head(dim: int, config: HeadConfig, prototypes: int) -> nn.Module:
    """Lightly's head, its weight normalisation in torch's present form: the older one cannot be copied for the teacher."""
    head = DINOProjectionHead(dim, config.hidden, config.bottleneck, prototypes, batch_norm=config.batch_norm)
    nn.utils.remove_weight_norm(head.last_layer)
    if not config.learn_prototypes:
        nn.init.normal_(head.last_layer.weight)  # directions on the sphere; a linear layer's own draw fills a cube
    lengths = nn.utils.parametrizations.weight_norm(head.last_layer).parametrizations.weight.original0
    lengths.data.fill_(1.0)
    lengths.requires_grad_(False)
    if not config.learn_prototypes:
        head.last_layer.requires_grad_(False)
    return head


class Assignment(nn.Module):
    """From the teacher's logits to distributions over prototypes that do not all fall on one.

    Args:
        prototypes: Number of prototypes.
        centring: ``mean`` (a moving average is subtracted) or ``sinkhorn``.
    """

    def __init__(self, prototypes: int, centring: str) -> None:
        super().__init__()
        self.centre = Center(size=(1, prototypes), momentum=0.9) if centring == "mean" else None

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """float32 (n, prototypes) to distributions of the same shape."""
        if self.centre is None:
            return sinkhorn(logits, iterations=3, epsilon=temperature, gather_distributed=True)
        distribution = ((logits - self.centre.value) / temperature).softmax(dim=-1)
        self.centre.update(logits)
        return distribution


@dataclass(frozen=True)
class Losses:
    """Losses of one iteration; ``total`` is what is minimised."""

    total: Tensor
    classes: Tensor
    patches: Tensor


class Distillation(nn.Module):
    """The teacher and the loss.

    Args:
        student: What the teacher starts as.
        config: Settings.
    """

    def __init__(self, student: Network, config: DinoConfig) -> None:
        super().__init__()
        self.train_config = config.train
        self.teacher = copy.deepcopy(student).requires_grad_(False)
        self.classes = Assignment(config.head.prototypes, config.train.centring)
        self.patches = Assignment(config.head.patch_prototypes, config.train.centring)

    def forward(self, student: nn.Module, views: Views, temperature: float) -> Losses:
        """Computes the losses of one batch.

        Args:
            student: A ``Network``, or what wraps it for several devices.
            views: The views.
            temperature: The teacher's.
        """
        with torch.no_grad():
            teacher_classes, teacher_patches = self.teacher.tokens(torch.cat(views.teacher))
            targets = self.classes(self.teacher.class_head(teacher_classes).float(), temperature)
        class_logits, patch_logits = student(views)
        classes = self._class_loss(targets, class_logits)
        if patch_logits is None:
            return Losses(classes, classes.detach(), torch.zeros(()))
        patches = self._patch_loss(self._as_student_sees(teacher_patches, views.turns), patch_logits, views.chosen, temperature)
        return Losses(classes + self.train_config.patch_loss * patches, classes.detach(), patches.detach())

    def _class_loss(self, targets: Tensor, logits: Tensor) -> Tensor:
        """Mean cross-entropy over pairs (teacher's view t, student's view s); pairs t = s count ``same_view`` times."""
        large = targets.chunk(2)
        seen = (logits / self.train_config.student_temperature).log_softmax(dim=-1).split(len(large[0]))
        total, weights = logits.new_zeros(()), 0.0
        for t, target in enumerate(large):
            for s, log_probability in enumerate(seen):
                weight = self.train_config.same_view if s == t else 1.0
                if weight:
                    total = total - weight * (target * log_probability).sum(dim=-1).mean()
                    weights += weight
        return total / weights

    def _patch_loss(self, tokens: Tensor, logits: Tensor, chosen: Tensor, temperature: float) -> Tensor:
        """Mean cross-entropy over the chosen patches."""
        with torch.no_grad():
            targets = self.patches(self.teacher.patch_head(tokens.flatten(0, 2)[chosen]).float(), temperature)
        return -(targets * (logits / self.train_config.student_temperature).log_softmax(dim=-1)).sum(dim=-1).mean()

    @staticmethod
    def _as_student_sees(tokens: Tensor, turns: list[Turn]) -> Tensor:
        """Moves the teacher's patch tokens (2 B, rows, columns, dim) to where the student has the same patches."""
        moved = [
            turn(part.permute(0, 3, 1, 2), t.quarters, t.mirrored).permute(0, 2, 3, 1)
            for part, t in zip(tokens.chunk(2), turns, strict=True)
        ]
        return torch.cat(moved)

    @torch.no_grad()
    def follow(self, student: Network, momentum: float) -> None:
        """Moves the teacher's parameters towards the student's: θ_t ← m θ_t + (1 - m) θ_s."""
        for mine, its in zip(self.teacher.parameters(), student.parameters(), strict=True):
            mine.lerp_(its.detach(), 1.0 - momentum)


def without_fused_attention(network: nn.Module) -> None:
    """Has attention computed as matrix products: on a CPU the fused kernel's backward pass takes several times as long."""
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
