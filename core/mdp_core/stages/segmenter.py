"""Segmenter: learns semantic segmentation from label maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

from mdp_core.data.images import Images
from mdp_core.data.label_map import LabelMap
from mdp_core.stages.base import ConfigT, Stage


class Segmenter(Stage[ConfigT], ABC):
    """Trains the final segmentation network on pseudo ground truth (paper §3.3, Eq. 4)."""

    kind = "segmenter"

    @abstractmethod
    def fit(self, images: Images, label_maps: Sequence[LabelMap], clusters: int, folder: Path, work: Path) -> None:
        """Trains; arguments as in ``Detector.fit``, labels are 0 (background) and 1..C, ignore as each map says."""

    @abstractmethod
    def predict(self, folder: Path, images: Images) -> Iterator[LabelMap]:
        """Predicts with the model in ``folder``: yields one label map an image, at the image's own size."""
