"""Clusterer ``kmeans``: embeddings of the masked objects by a frozen network, scaled, then k-means (MaskDistill, §3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mdp_backbones.preprocess import in_batches, pad_to_multiple, pad_with_zeros, read_ahead, to_input
from mdp_backbones.resnet import ResnetReader
from mdp_backbones.vit import VitReader
from mdp_backbones.weights import load_backbone
from mdp_core.api import Clusterer, Images, Instances, Pixels, StageError
from mdp_kmeans.lloyd import fit_centroids, nearest
from mdp_kmeans.settings import KmeansConfig
from mdp_kmeans.state import KmeansState, Scaling
from mdp_kmeans.views import view_of

Embedding = NDArray[np.float32]


class Kmeans(Clusterer[KmeansConfig]):
    """k-means on embeddings of masks."""

    Config = KmeansConfig

    @cached_property
    def _reader(self) -> VitReader | ResnetReader:
        embed = self.config.embed
        return load_backbone(
            embed.weights, self.context, arch=embed.arch, precision=embed.precision, positions=embed.positions
        ).reader

    def embed(self, images: Images, instances: Sequence[Instances]) -> Iterator[Embedding]:
        """Yields the embeddings of each image's masks: float32 (n_i, dim), row j for instance j; (0, dim) without masks."""
        reader = self._reader

        def run(batch: list[Pixels]) -> list[Embedding]:
            inputs = pad_with_zeros(to_input(batch, reader.device, reader.normalisation), reader.multiple)
            return list(reader.embed(inputs).cpu().numpy())

        rows = in_batches(self._views(images, instances, reader), run, self.config.embed.batch)
        for one in instances:
            yield np.array(list(islice(rows, len(one))), dtype=np.float32).reshape(len(one), reader.dim)

    def _views(self, images: Images, instances: Sequence[Instances], reader: VitReader | ResnetReader) -> Iterator[Pixels]:
        config, colour = self.config.embed, reader.normalisation.mean_pixel
        with_masks = (index for index, one in enumerate(instances) if len(one))

        def views(index: int) -> list[Pixels]:
            pixels, one = images.read(index), instances[index]
            made = [view_of(pixels, one.mask(row), config, colour, one.boxes[row]) for row in range(len(one))]
            return [pad_to_multiple(view, reader.multiple) for view in made] if config.padding == "edge" else made

        for made in read_ahead(views, with_masks):
            yield from made

    def fit(self, embeddings: Embedding, folder: Path) -> int:
        """Finds the clusters of all training masks, float32 (n, dim), and returns how many there are.

        Clusters that end without a mask (there are fewer different masks than clusters) are dropped, with a warning.

        Raises:
            StageError: Fewer masks than clusters, or embeddings that are not finite.
        """
        config = self.config
        if len(embeddings) < config.clusters:
            raise StageError(
                f"{len(embeddings)} masks cannot make {config.clusters} clusters",
                hint=f"set clusters: to at most {len(embeddings)}, or use more images or a prior that finds more masks",
            )
        if not np.isfinite(embeddings).all():
            broken = int((~np.isfinite(embeddings).all(axis=1)).sum())
            raise StageError(
                f"{broken} of {len(embeddings)} embeddings hold NaN or infinity", hint="check embed.weights and embed.precision"
            )
        scaling = Scaling.fit(embeddings, config.normalise)
        points = scaling.apply(embeddings)
        centroids = fit_centroids(points, config, self.context.seed)
        labels, distances = nearest(points, centroids)
        used = np.unique(labels)
        if len(used) < config.clusters:
            self.context.listener.warn(
                f"{config.clusters - len(used)} of {config.clusters} clusters have no mask and were dropped: "
                "many masks have the same embedding"
            )
        objective = float(distances.sum(dtype=np.float64))
        self.context.listener.note("k-means objective", f"{objective:.6g}")
        KmeansState(centroids[used], scaling).save(folder, objective=objective, masks=len(points))
        return len(used)

    def assign(self, folder: Path, embeddings: Embedding) -> NDArray[np.int32]:
        """Returns the nearest centroid of each scaled embedding: int32 (n,) in 0..C-1."""
        state = KmeansState.load(folder)
        if not len(embeddings):
            return np.zeros(0, np.int32)
        return nearest(state.scaling.apply(embeddings), state.centroids)[0]
