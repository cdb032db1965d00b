"""Regions of an image: their mean features, their true class, and the class that nearby regions suggest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Regions", "majority_class", "neighbours_class", "region_means"]


@dataclass(frozen=True)
class Regions:
    """Regions of one image.

    Attributes:
        labels: int64 (R,), ascending: what the segmenter calls them, background left out.
        means: float32 (R, D), mean feature over a region's pixels, of length 1.
    """

    labels: Tensor
    means: Tensor


def region_means(features: Tensor, labels: Tensor) -> Regions:
    """Averages features over each region of a label map.

    A pixel's feature is the bilinear interpolation of the map of features. The mean over a region is linear in the cells, so
    each cell is weighted by the transpose of that interpolation instead: no map of features at the image's size is ever made.

    Args:
        features: float32 (D, h, w) that cover the image.
        labels: Integer (H, W) on the same device, 0 = background.
    """
    found = labels.unique()
    found = found[found > 0]
    indicators = (labels == found[:, None, None]).to(features.dtype)
    sides, cells = list(labels.shape), list(features.shape[-2:])
    if not len(found):
        return Regions(found.long(), features.new_zeros(0, features.shape[0]))
    weights = torch.ops.aten.upsample_bilinear2d_backward(indicators[None], sides, [1, len(found), *cells], False)[0]
    sums = weights.flatten(1) @ features.flatten(1).T
    means = sums / indicators.sum((1, 2))[:, None]
    return Regions(found.long(), torch.nn.functional.normalize(means, dim=1))


def majority_class(inside: NDArray[np.bool_], truth: NDArray[Any], ignore: int) -> int | None:
    """Returns the true class of most pixels of a region, the lowest of several; background counts as a class.

    Args:
        inside: (H, W).
        truth: Integer (H, W), ``ignore`` where nobody knows.
        ignore: See ``truth``.

    Returns:
        None where nobody knows any pixel of the region.
    """
    known = truth[inside & (truth != ignore)]
    return int(np.bincount(known).argmax()) if known.size else None


def neighbours_class(queries: Tensor, memory: Tensor, classes: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Returns for each query the class that most of its k most similar rows of the memory have.

    Args:
        queries: (R, D), rows of length 1.
        memory: (n, D), rows of length 1; n ≥ 1. Of equally similar rows the earlier one is nearer.
        classes: (n,), true class of each row.
        k: How many vote; all n where there are fewer. Of several classes with most votes, the one of the nearest row wins.

    Returns:
        (R,).
    """
    similarities = (queries @ memory.T).cpu()
    nearest = classes[torch.sort(similarities, dim=1, descending=True, stable=True).indices[:, :k].numpy()]
    votes = (nearest[:, :, None] == nearest[:, None, :]).sum(2)  # of the class of each of the k
    return np.take_along_axis(nearest, votes.argmax(1)[:, None], 1)[:, 0]  # the first of the largest: the nearest
