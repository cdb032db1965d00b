"""Probe: what frozen features know of the true classes, found out with labels (paper §4.1, A.2). It is a measurement, not a stage of the method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from mdp_core.data.images import Images
from mdp_core.data.label_map import LabelMap
from mdp_core.settings import StageConfig
from mdp_core.stages.base import ConfigT, Stage


class ProbeConfig(StageConfig):
    """Settings of a probe, and what the plan must know of it."""

    uses_labels: ClassVar[str | None] = "it learns from the class maps of the training split"

    @property
    def reads_segmenter(self) -> bool:
        """Whether the features are those of the segmenter before it; otherwise its settings name a network."""
        return True


class Probe(Stage[ConfigT], ABC):
    """Learns true classes from frozen features: the only stage that is given ground truth, and never one that another stage learns from."""

    kind = "probe"

    @abstractmethod
    def fit(
        self, images: Images, truth: Sequence[LabelMap | None], classes: int, model: Path | None, folder: Path, work: Path
    ) -> None:
        """Learns.

        Args:
            images: The training images.
            truth: Their true class maps, aligned: 0..classes-1, 255 = ignore; None where an image has none (it is passed over).
            classes: Number of true classes, background included.
            model: What the segmenter's ``fit`` left, where ``reads_segmenter``; otherwise None.
            folder: Empty folder; write there what ``predict`` needs.
            work: Folder for resume files, kept until the fit ends.

        Raises:
            StageError: No image has ground truth.
        """

    @abstractmethod
    def predict(self, folder: Path, model: Path | None, images: Images) -> Iterator[LabelMap]:
        """Predicts true classes: yields one label map an image, at the image's own size, values 0..classes-1."""
