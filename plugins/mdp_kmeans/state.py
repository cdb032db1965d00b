"""What k-means stores: the scaling of the embeddings and the centroids."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Normalise = Literal["standardise-l2", "zscore-l2", "l2", "standardise", "none"]
Embedding = NDArray[np.float32]


@dataclass(frozen=True)
class Scaling:
    """How embeddings are scaled before distances are measured.

    Attributes:
        normalise: Which of the steps are done.
        std: float32 (d,), what each dimension is divided by; ones where it is not.
        mean: float32 (d,), what is subtracted before; zeros where nothing is.
    """

    normalise: Normalise
    std: Embedding
    mean: Embedding

    @classmethod
    def fit(cls, embeddings: Embedding, normalise: Normalise) -> Scaling:
        """Measures what ``normalise`` needs of float32 (n, d); a constant dimension is not scaled."""
        std: Embedding = np.ones(embeddings.shape[1], np.float32)
        mean: Embedding = np.zeros_like(std)
        if normalise.startswith("zscore"):
            mean = embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
        if normalise.startswith(("standardise", "zscore")):
            measured = embeddings.std(axis=0, dtype=np.float64).astype(np.float32)
            constant = np.ptp(embeddings, axis=0) == 0
            std = np.where(constant | (measured == 0), np.float32(1), measured)
        return cls(normalise, std, mean)

    def apply(self, embeddings: Embedding) -> Embedding:
        """Scales float32 (n, d); a vector without length keeps none."""
        scaled = (embeddings - self.mean) / self.std
        if self.normalise.endswith("l2"):
            length = np.linalg.norm(scaled, axis=1, keepdims=True)
            scaled = scaled / np.where(length == 0, np.float32(1), length)
        return np.ascontiguousarray(scaled, dtype=np.float32)


@dataclass(frozen=True)
class KmeansState:
    """A fitted k-means: centroids float32 (C, d) in the scaled space, and the scaling."""

    centroids: Embedding
    scaling: Scaling

    def save(self, folder: Path, *, objective: float, masks: int) -> None:
        """Writes ``kmeans.safetensors`` (centroids, std, mean) and ``kmeans.json`` (how they came about)."""
        arrays = {"centroids": self.centroids, "std": self.scaling.std, "mean": self.scaling.mean}
        save_file(arrays, folder / "kmeans.safetensors")
        facts = {
            "clusters": len(self.centroids),
            "normalise": self.scaling.normalise,
            "objective": objective,
            "masks": masks,
        }
        (folder / "kmeans.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> KmeansState:
        """Reads what ``save`` wrote, today or before it wrote ``mean``."""
        arrays = load_file(folder / "kmeans.safetensors")
        facts = json.loads((folder / "kmeans.json").read_text(encoding="utf-8"))
        std = arrays["std"]
        return cls(arrays["centroids"], Scaling(facts["normalise"], std, arrays.get("mean", np.zeros_like(std))))
