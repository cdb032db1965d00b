"""Detector: learns instance masks from clustered masks, and predicts scored ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

from mdp_core.data.images import Images
from mdp_core.data.instances import Instances
from mdp_core.stages.base import ConfigT, Stage


class Detector(Stage[ConfigT], ABC):
    """Distils an instance segmentation network from pseudo ground truth (paper §3.2, Eq. 3)."""

    kind = "detector"

    @abstractmethod
    def fit(self, images: Images, instances: Sequence[Instances], clusters: int, folder: Path, work: Path) -> None:
        """Trains.

        Args:
            images: The training images.
            instances: Their clustered masks, aligned with ``images``; an image may have none.
            clusters: Number of clusters C; labels are 0..C-1.
            folder: Empty folder for the model: weights (safetensors), configuration, training log.
            work: Scratch folder that survives a crash: resume from the last checkpoint that lies there. A resumed
                training must end as an undisturbed one would.
        """

    @abstractmethod
    def predict(self, folder: Path, images: Images) -> Iterator[Instances]:
        """Predicts with the model in ``folder``: yields one an image, best score first, labels 0..C-1, scores in [0, 1]."""
