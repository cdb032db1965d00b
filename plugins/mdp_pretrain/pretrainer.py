"""Pretrainer ``dino``: reads the images, trains, and publishes the teacher's backbone with its curve."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mdp_backbones.checkpoint import Card, save_backbone
from mdp_core.api import BACKBONE, Context, Images, Instances, Pretrainer
from mdp_mmengine.launch import Place
from mdp_pretrain.bank import ImageBank
from mdp_pretrain.curve import draw_curve
from mdp_pretrain.log import LOG_NAME, read_log
from mdp_pretrain.processes import together
from mdp_pretrain.settings import DinoConfig
from mdp_pretrain.trainer import Trainer


@dataclass(frozen=True)
class _Training:
    """One process's share of a training; picklable, so that children can be told."""

    config: DinoConfig
    images: Images
    instances: Sequence[Instances] | None
    seed: int
    work: Path

    def __call__(self, place: Place) -> None:
        self.trained(place, Context(self.seed, str(place.device)))

    def trained(self, place: Place, context: Context) -> Trainer:
        config = self.config
        bank = ImageBank(
            self.images,
            self.instances,
            side=config.image_side,
            memory=config.memory,
            workers=config.workers,
            context=Context(context.seed, str(place.device), context.listener),
        )
        trainer = Trainer(config, bank, context, place, self.work)
        trainer.run()
        return trainer


class Dino(Pretrainer[DinoConfig]):
    """Self-distillation without labels."""

    Config = DinoConfig

    def fit(self, images: Images, instances: Sequence[Instances] | None, folder: Path, work: Path) -> None:
        """Trains and writes ``backbone.safetensors``, ``log.jsonl`` and ``curve.png``; see ``Pretrainer.fit``.

        Raises:
            StageError: No images, an architecture that cannot be trained, sizes that do not fit its patch, or a loss that is no number.
        """
        training = _Training(self.config, images, instances, self.context.seed, work)
        with together(self.config.devices, self.context.device, work, training) as place:
            trainer = training.trained(place, self.context)
            if not place.main:
                return
            backbone = trainer.backbone()
        card = Card(
            arch=self.config.arch,
            arch_settings={"img_size": self.config.views.size},
            mean=trainer.normalisation.mean,
            std=trainer.normalisation.std,
            description=f"DINO, {self.config.train.iters} iterations of {self.config.train.batch} images, {len(images)} images in all",
            trained_by=f"mdp pretrain, pretrainer dino, seed {self.context.seed}",
        )
        save_backbone(folder / BACKBONE, backbone.state_dict(), card, torch.float32)
        shutil.copyfile(work / LOG_NAME, folder / LOG_NAME)
        draw_curve(read_log(folder / LOG_NAME), self.config, folder / "curve.png")
