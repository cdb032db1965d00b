"""GroupingPrior: images → class-agnostic object masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from mdp_core.data.images import Images
from mdp_core.data.instances import Instances
from mdp_core.stages.base import ConfigT, Stage


class GroupingPrior(Stage[ConfigT], ABC):
    """Groups pixels into object masks without labels (paper §3.1-3.2)."""

    kind = "prior"

    @abstractmethod
    def mine(self, images: Images) -> Iterator[Instances]:
        """Mines masks: yields one ``Instances`` an image, in order, at the image's own size, labels -1.

        A pure function of each image: the result must not depend on which other images come along.
        """
