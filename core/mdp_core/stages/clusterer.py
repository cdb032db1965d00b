"""Clusterer: masks → masks with cluster labels, through an embedding of each mask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mdp_core.data.images import Images
from mdp_core.data.instances import Instances
from mdp_core.stages.base import ConfigT, Stage

Embedding = NDArray[np.float32]


class Clusterer(Stage[ConfigT], ABC):
    """Clusters object masks (paper §3.2: k-means on the CLS tokens of the masked images)."""

    kind = "clusterer"

    @abstractmethod
    def embed(self, images: Images, instances: Sequence[Instances]) -> Iterator[Embedding]:
        """Embeds masks: yields one float32 (n_i, d) an image, row j for instance j; (0, d) where there is none."""

    @abstractmethod
    def fit(self, embeddings: Embedding, folder: Path) -> int:
        """Finds the clusters of the training masks.

        Args:
            embeddings: float32 (n, d), n ≥ 1, all masks of the training split.
            folder: Empty folder; write there what ``assign`` needs.

        Returns:
            The number of clusters C; ``assign`` gives labels 0..C-1.

        Raises:
            StageError: For example fewer masks than clusters.
        """

    @abstractmethod
    def assign(self, folder: Path, embeddings: Embedding) -> NDArray[np.int32]:
        """Assigns float32 (n, d) embeddings to clusters: int32 (n,) in 0..C-1."""
