"""What k-means stores: the scaling of the embeddings and the centroids."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Normalise = Literal["standardise-l2", "l2", "standardise", "none"]
Embedding = NDArray[np.float32]


@dataclass(frozen=True)
class Scaling:
    """How embeddings are scaled before distances are measured.

    Attributes:
        normalise: Which of the steps are done.
        std: float32 (d,), what each dimension is divided by; ones where it is not.
    """

    normalise: Normalise
    std: Embedding

    @classmethod
    def fit(cls, embeddings: Embedding, normalise: Normalise) -> Scaling:
        """Measures the standard deviations of float32 (n, d); a constant dimension is left as it is."""
        std = np.ones(embeddings.shape[1], np.float32)
        if normalise.startswith("standardise"):
            measured = embeddings.std(axis=0, dtype=np.float64).astype(np.float32)
            constant = np.ptp(embeddings, axis=0) == 0
            std = np.where(constant | (measured == 0), np.float32(1), measured)
        return cls(normalise, std)

    def apply(self, embeddings: Embedding) -> Embedding:
        """Scales float32 (n, d); a vector of zeros stays one."""
        scaled = embeddings / self.std
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
        """Writes ``kmeans.safetensors`` (centroids, std) and ``kmeans.json`` (how they came about)."""
        save_file({"centroids": self.centroids, "std": self.scaling.std}, folder / "kmeans.safetensors")
        facts = {
            "clusters": len(self.centroids),
            "normalise": self.scaling.normalise,
            "objective": objective,
            "masks": masks,
        }
        (folder / "kmeans.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> KmeansState:
        """Reads what ``save`` wrote."""
        arrays = load_file(folder / "kmeans.safetensors")
        facts = json.loads((folder / "kmeans.json").read_text(encoding="utf-8"))
        return cls(arrays["centroids"], Scaling(facts["normalise"], arrays["std"]))
