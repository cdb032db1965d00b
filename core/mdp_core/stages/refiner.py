"""Refiner: predictions → label maps fit to train on (or to look at)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

from mdp_core.data.images import Images
from mdp_core.data.instances import Instances
from mdp_core.data.label_map import LabelMap
from mdp_core.settings import StageConfig
from mdp_core.stages.base import ConfigT, Stage


class RefinerConfig(StageConfig):
    """Settings of a refiner, and what the plan must know of it."""

    accepts: ClassVar[tuple[str, ...]] = ("instances",)
    """What it refines: ``"instances"`` (clustered masks), ``"label-maps"``, or both."""
    dense_crf: ClassVar[bool] = False
    """Whether it is a dense CRF: the protocol of every score of what it made says so."""

    @property
    def needs_probabilities(self) -> bool:
        """Whether label maps must come with probabilities; the plan checks that their maker keeps them."""
        return False


class Refiner(Stage[ConfigT], ABC):
    """Cleans predictions (paper §3.3: keeps the confident masks); what it accepts stands in its settings class."""

    kind = "refiner"

    @abstractmethod
    def refine(self, images: Images, predictions: Sequence[Instances] | Sequence[LabelMap]) -> Iterator[LabelMap]:
        """Yields one label map an image, at the image's size; ``predictions`` are aligned with ``images``."""
