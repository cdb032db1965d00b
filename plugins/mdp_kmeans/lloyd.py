"""k-means itself, by faiss or scikit-learn, always with the same result for the same seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import pairwise_distances_argmin_min

from mdp_kmeans.settings import KmeansConfig

Embedding = NDArray[np.float32]
MINIBATCH = 1000


def fit_centroids(points: Embedding, config: KmeansConfig, seed: int) -> Embedding:
    """Runs k-means on float32 (n, d), n ≥ clusters, and returns the best start's centroids, float32 (clusters, d)."""
    fit = _faiss if config.backend == "faiss" else _minibatch
    return fit(points, config, seed % 2**31)


def nearest(points: Embedding, centroids: Embedding) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Returns the nearest centroid of each point, int32 (n,), and the squared distance to it, float64 (n,)."""
    labels, distances = pairwise_distances_argmin_min(points.astype(np.float64), centroids.astype(np.float64))
    return labels.astype(np.int32), np.square(distances)


def _faiss(points: Embedding, config: KmeansConfig, seed: int) -> Embedding:
    count, dim = points.shape
    parameters = {
        "niter": config.iterations,
        "nredo": config.restarts,
        "seed": seed,
        "min_points_per_centroid": 1,
        "max_points_per_centroid": count,  # all points; the default trains on a sample of 256 for each centroid
    }
    if hasattr(faiss, "ClusteringInitMethod_KMEANS_PLUS_PLUS"):
        parameters["init_method"] = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS
    kmeans = faiss.Kmeans(dim, config.clusters, **parameters)
    with _one_thread():
        kmeans.train(points)
    return kmeans.centroids


def _minibatch(points: Embedding, config: KmeansConfig, seed: int) -> Embedding:
    kmeans = MiniBatchKMeans(
        config.clusters, batch_size=MINIBATCH, n_init=config.restarts, max_iter=config.iterations, random_state=seed
    )
    return kmeans.fit(points).cluster_centers_.astype(np.float32)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in faiss come in one order only on one thread."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
