"""Pretrainer: images without labels → weights of a backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from mdp_core.data.images import Images
from mdp_core.data.instances import Instances
from mdp_core.stages.base import ConfigT, Stage

BACKBONE = "backbone.safetensors"
"""The file that a pretrainer publishes: what ``weights: file:PATH`` loads."""


class Pretrainer(Stage[ConfigT], ABC):
    """Trains a backbone by self-supervision, on any images, for the stages that read its features."""

    kind = "pretrainer"

    @abstractmethod
    def fit(self, images: Images, instances: Sequence[Instances] | None, folder: Path, work: Path) -> None:
        """Trains.

        Args:
            images: The training images.
            instances: Masks mined by a prior that stands before this stage in the pipeline, aligned with ``images``, for
                crops around objects; None where no prior comes first.
            folder: Empty folder for the result: ``backbone.safetensors`` (``BACKBONE``), configuration, training log.
            work: Scratch folder that survives a crash: resume from the last checkpoint that lies there. A resumed
                training must end as an undisturbed one would.
        """
