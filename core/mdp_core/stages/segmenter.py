"""Segmenter: learns semantic segmentation from label maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from mdp_core.data.images import Images
from mdp_core.data.label_map import LabelMap
from mdp_core.settings import OnlyFor, StageConfig
from mdp_core.stages.base import ConfigT, Stage


class SegmenterConfig(StageConfig):
    """Settings that every segmenter has, and what the plan must know of it."""

    checkpoint: Annotated[Literal["last", "best-on-labels"], OnlyFor("predict")] = "last"
    """Which state of the training predicts. best-on-labels, as the authors' code does, takes the snapshot with the best mIoU on
    the eval split, with its ground truth: every table says so. It needs snapshots."""

    @property
    def keeps_probabilities(self) -> bool:
        """Whether predictions come with probabilities, for a refiner that needs them."""
        return False

    @property
    def keeps_snapshots(self) -> bool:
        """Whether ``fit`` leaves earlier states of the training."""
        return False


class Segmenter(Stage[ConfigT], ABC):
    """Trains the final segmentation network on pseudo ground truth (paper §3.3, Eq. 4)."""

    kind = "segmenter"

    @abstractmethod
    def fit(self, images: Images, label_maps: Sequence[LabelMap], clusters: int, folder: Path, work: Path) -> None:
        """Trains; arguments as in ``Detector.fit``, labels are 0 (background) and 1..C, ignore as each map says."""

    @abstractmethod
    def predict(self, folder: Path, images: Images) -> Iterator[LabelMap]:
        """Predicts with the model in ``folder``: yields one label map an image, at the image's own size."""

    def snapshots(self, folder: Path) -> dict[str, Path]:
        """Returns the earlier states that ``fit`` left in ``folder``: a name for people → a folder that ``predict`` takes, oldest first."""
        return {}
