"""The training loop: mixed precision, several devices, resume files.

Everything random in iteration i is a function of (seed, i, rank), and the order of the images one of (seed, epoch): a training
killed at any moment and begun again ends with the very tensors of an undisturbed one (on a CPU, with as many threads).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mdp_backbones import tiny
from mdp_backbones.preprocess import read_ahead
from mdp_backbones.vit import VitReader
from mdp_core.api import Context, StageError
from mdp_mmengine.checkpoints import Checkpoint, newest, save
from mdp_mmengine.draws import own_random_states
from mdp_mmengine.launch import Place, agree
from mdp_pretrain.bank import ImageBank
from mdp_pretrain.build import build_backbone, build_network
from mdp_pretrain.dino import Distillation, Network, make_views, without_fused_attention
from mdp_pretrain.log import LOG_NAME, Point, line_of, read_log
from mdp_pretrain.schedule import cosine, image_order, learning_rate, seed_of, temperature_at
from mdp_pretrain.settings import DinoConfig
from mdp_pretrain.views import Batch, crop, recolour

PROBE_IMAGES = 256
"""Images of the retrieval curve, at most."""


class Trainer:
    """Trains one student with its teacher.

    Args:
        config: Settings.
        bank: The images.
        context: Seed and listener.
        place: This process among those that train together; its device counts.
        work: Folder of the resume files and the log.
    """

    def __init__(self, config: DinoConfig, bank: ImageBank, context: Context, place: Place, work: Path) -> None:
        self.config, self.bank, self.context, self.place, self.work = config, bank, context, place, work
        if config.train.batch % place.world:
            raise StageError(
                f"train.batch {config.train.batch} cannot be shared among {place.world} devices",
                hint=f"make it a multiple of {place.world}",
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            student, self.normalisation = build_network(config, context)
            self.distillation = Distillation(student, config).to(place.device)
        self.mean, self.std = torch.tensor(self.normalisation.mean), torch.tensor(self.normalisation.std)
        self.patch = VitReader(student.backbone).patch
        self._check_sizes()
        if place.device.type == "cpu":
            without_fused_attention(student)
            without_fused_attention(self.distillation)
        if place.world > 1 and place.device.type == "cuda":
            student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
            self.distillation = nn.SyncBatchNorm.convert_sync_batchnorm(self.distillation)
        self.student: Network = student.to(place.device)
        self.optimizer = _optimizer(self.student, config)
        self.precision = precision_of(config.amp, place.device)
        self.scaler = torch.amp.GradScaler(place.device.type, enabled=self.precision is torch.float16)
        self.iteration = 0
        self._resume()
        agree(place, self.iteration)

    def _check_sizes(self) -> None:
        views = self.config.views
        for name, size in (("views.size", views.size), ("views.local_size", views.local_size if views.local_count else 0)):
            if size % self.patch:
                raise StageError(
                    f"{name} {size} is no multiple of the patch, {self.patch}",
                    hint=f"set it to {max(size // self.patch, 1) * self.patch}",
                )

    @own_random_states()
    def run(self) -> None:
        """Trains from the current iteration to the last."""
        config, total = self.config.train, self.config.train.iters
        wrapped: nn.Module = self.student
        if self.place.world > 1:
            ids = [self.place.device.index] if self.place.device.type == "cuda" else None
            wrapped = DistributedDataParallel(self.student, device_ids=ids, broadcast_buffers=False)
        for batch in self._batches():
            started = time.perf_counter()
            point = self._step(wrapped, batch, started)
            self.iteration += 1
            if self.place.main:
                self._log(point)
                metrics = {"loss": point.loss, "class_loss": point.class_loss, "lr": point.lr}
                if config.patch_loss:
                    metrics["patch_loss"] = point.patch_loss
                if point.retrieval is not None:
                    metrics["retrieval"] = point.retrieval
                self.context.listener.progress(self.iteration, total, metrics)
                if self.iteration % config.checkpoint_every == 0 or self.iteration == total:
                    self._save()

    def _step(self, wrapped: nn.Module, batch: Batch, started: float) -> Point:
        config = self.config
        total, progress = config.train.iters, self.iteration / max(config.train.iters - 1, 1)
        seed = seed_of(self.context.seed, self.iteration, self.place.rank)
        torch.manual_seed(seed)
        draw = torch.Generator().manual_seed(seed)
        views = make_views(batch, config.views, config.train, self.patch, self.mean, self.std, draw)
        rate = learning_rate(config, self.iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
            if group["decays"]:
                group["weight_decay"] = cosine(*config.train.weight_decay, progress)
        with self._autocast():
            losses = self.distillation(wrapped, views, temperature_at(config.train, progress))
        loss = float(losses.total.detach())
        if not math.isfinite(loss):
            raise StageError(
                f"the loss became {loss} at iteration {self.iteration + 1}", hint="lower train.lr, or set amp: off or bf16"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses.total).backward()
        if config.train.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.student.parameters(), config.train.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        momentum = cosine(*config.train.ema, progress)
        self.distillation.follow(self.student, momentum)
        number = self.iteration + 1
        probed = self.place.main and (number % config.probe_every == 0 or number == total)
        return Point(
            number,
            loss,
            float(losses.classes),
            float(losses.patches),
            rate,
            momentum,
            time.perf_counter() - started,
            self.retrieval() if probed else None,
        )

    @torch.no_grad()
    def retrieval(self) -> float:
        """Share of images whose second view has their own first view as its nearest neighbour, by the teacher's class token.

        Uses no labels. The same images and views each time.
        """
        count = min(PROBE_IMAGES, len(self.bank))
        draw = torch.Generator().manual_seed(0)
        chosen = torch.randperm(len(self.bank), generator=draw)[:count]
        teacher, config = self.distillation.teacher, self.config
        teacher.eval()
        rows: list[list[Tensor]] = [[], []]
        for start in range(0, count, 32):
            batch = self.bank.batch(chosen[start : start + 32])
            objects = torch.full((len(batch.pixels),), batch.boxes is not None and config.views.objects.share > 0)
            for side in rows:
                cut = crop(batch, config.views, local=False, objects=objects, draw=draw)
                side.append(teacher.tokens(self._normalised(recolour(cut, config.views.colour, self.mean, draw)))[0].float())
        teacher.train()
        first, second = (nn.functional.normalize(torch.cat(side), dim=1) for side in rows)
        return float(((second @ first.T).argmax(dim=1).cpu() == torch.arange(count)).float().mean())

    @own_random_states()
    def backbone(self) -> nn.Module:
        """Returns the teacher's backbone, its BatchNorms measured on whole images.

        It is built anew: a BatchNorm that asks other processes would wait for them, and they do not measure.
        """
        network = build_backbone(self.config).to(self.place.device)
        network.load_state_dict(self.distillation.teacher.backbone.state_dict())
        whole = torch.randperm(len(self.bank), generator=torch.Generator().manual_seed(0))[:512]
        batches = [self._normalised(self.bank.batch(part).pixels) for part in whole.split(32) if len(part) > 1]
        tiny.calibrate(network, [_fitting(batch, self.patch) for batch in batches])
        return network

    def _normalised(self, pixels: Tensor) -> Tensor:
        """Normalises float32 (B, 3, H, W) in [0, 1]."""
        return (pixels - self.mean.to(pixels.device)[:, None, None]) / self.std.to(pixels.device)[:, None, None]

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision is None:
            return nullcontext()
        return torch.autocast(self.place.device.type, dtype=self.precision)

    def _batches(self) -> Iterator[Batch]:
        order = image_order(len(self.bank), self.config.train.batch, self.context.seed)
        share = self.config.train.batch // self.place.world

        def make(iteration: int) -> Batch:
            return self.bank.batch(order(iteration)[self.place.rank * share : (self.place.rank + 1) * share])

        todo = range(self.iteration, self.config.train.iters)
        yield from map(make, todo) if self.bank.in_memory else read_ahead(make, todo, ahead=2)

    def _save(self) -> None:
        model = {"student": self.student.state_dict(), "distillation": self.distillation.state_dict()}
        save(self.work, Checkpoint(self.iteration, model, self.optimizer.state_dict(), [self.scaler.state_dict()]))

    def _resume(self) -> None:
        found = newest(self.work)
        if found is not None:
            self.student.load_state_dict(found.model["student"])
            self.distillation.load_state_dict(found.model["distillation"])
            self.optimizer.load_state_dict(found.optimizer)
            self.scaler.load_state_dict(found.schedulers[0])
            self.iteration = found.iteration
        if self.place.main:
            kept = [point for point in read_log(self.work / LOG_NAME) if point.iteration <= self.iteration]
            shorter = self.work / f"{LOG_NAME}.tmp"
            shorter.write_text("".join(line_of(point) for point in kept), encoding="utf-8")
            shorter.replace(self.work / LOG_NAME)

    def _log(self, point: Point) -> None:
        with (self.work / LOG_NAME).open("a", encoding="utf-8") as file:
            file.write(line_of(point))


def _fitting(pixels: Tensor, patch: int) -> Tensor:
    height, width = (side // patch * patch for side in pixels.shape[-2:])
    return pixels[..., :height, :width]


def precision_of(amp: str, device: torch.device) -> torch.dtype | None:
    """Returns the type of mixed precision, or None for float32 alone.

    Raises:
        StageError: float16 on a CPU.
    """
    if amp == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bf16()
        return torch.bfloat16 if fast else None
    if amp == "fp16" and device.type == "cpu":
        raise StageError("amp: fp16 needs a GPU", hint="amp: bf16, or off")
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def _cpu_has_bf16() -> bool:
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()) and bool(
        torch.cpu._is_avx512_bf16_supported()
    )


def _optimizer(student: Network, config: DinoConfig) -> torch.optim.Optimizer:
    """AdamW; vectors (norms, biases) and tokens do not decay."""
    matrices, others = [], []
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim > 1 and not name.endswith(("pos_embed", "cls_token", "reg_token"))
            (matrices if plain else others).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": config.train.weight_decay[0], "decays": True},
        {"params": others, "weight_decay": 0.0, "decays": False},
    ]
    return torch.optim.AdamW(groups, lr=config.train.lr, betas=config.train.betas)
