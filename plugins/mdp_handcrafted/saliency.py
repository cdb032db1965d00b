"""Prior ``saliency``: a map of what stands out, and the connected parts of what lies above a threshold.

The maps are in ``background.py``, ``barrier.py`` and ``spectral_residual.py``. From map to mask it is the rule of MaskContrast (Van
Gansbeke et al., Unsupervised Semantic Segmentation by Contrasting Object Mask Proposals, ICCV 2021): threshold, no parts below 1 % of
the image, no object where less than that is left. There all parts are one mask; here they are masks of their own by default, since
the detector that learns from them needs one object in one box.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from mdp_core.api import Bitmap, GroupingPrior, Images, Instances, Pixels
from mdp_handcrafted.background import background_map
from mdp_handcrafted.barrier import barrier_map
from mdp_handcrafted.colour import within
from mdp_handcrafted.settings.saliency import SaliencyConfig
from mdp_handcrafted.spectral_residual import spectral_residual_map

Map = NDArray[np.float32]
_TOUCHING = np.ones((3, 3), np.bool_)
"""Parts are 8-connected."""


class Saliency(GroupingPrior[SaliencyConfig]):
    """Takes what stands out from the border of the image, or from its spectrum."""

    Config = SaliencyConfig

    def mine(self, images: Images) -> Iterator[Instances]:
        """Yields the masks of each image with scores: mean saliency inside minus outside of all masks."""
        config = self.config
        for pixels in images:
            values = self.map(pixels)
            parts = salient_parts(values, config.threshold, config.min_area)
            if config.parts == "together" and len(parts):
                parts = parts.any(axis=0)[None]
            scores = contrasts(values, parts)
            kept = np.flatnonzero(scores >= config.min_score)[: config.masks]
            yield Instances.from_masks(parts[kept], scores=scores[kept])

    def map(self, pixels: Pixels) -> Map:
        """Returns the saliency of each pixel, float32 (H, W) in [0, 1]; all zero where nothing stands out."""
        small = within(pixels, self.config.side)
        match self.config.method:
            case "background":
                found = background_map(small, self.config.superpixels, self.config.background_weight)
            case "barrier":
                found = barrier_map(small)
            case "spectral-residual":
                found = spectral_residual_map(small)
        size = pixels.shape[1], pixels.shape[0]
        return np.clip(cv2.resize(found.astype(np.float32), size, interpolation=cv2.INTER_LINEAR), 0, 1).reshape(size[::-1])


def salient_parts(values: Map, threshold: float | Literal["otsu", "adaptive"], min_area: float) -> Bitmap:
    """Returns the connected parts above a threshold.

    Args:
        values: float (H, W) in [0, 1].
        threshold: A number, Otsu's, or twice the mean (adaptive).
        min_area: Smallest part, as a share of the image.

    Returns:
        bool (n, H, W), the part with the largest sum of saliency first; of equal ones the part that a row of the image meets first.
    """
    labels, count = ndimage.label(values > level(values, threshold), structure=_TOUCHING)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    sums = np.bincount(labels.ravel(), values.ravel(), minlength=count + 1)[1:]
    large = np.flatnonzero(areas >= max(1.0, min_area * values.size))
    ordered = large[np.argsort(-sums[large], kind="stable")]
    return np.asarray(labels[None] == (ordered + 1)[:, None, None])


def level(values: Map, threshold: float | Literal["otsu", "adaptive"]) -> float:
    """Returns the number that saliency must exceed; 1, which nothing does, for a map without differences."""
    if values.min() == values.max():
        return 1.0
    if threshold == "otsu":
        return float(threshold_otsu(values))
    return min(1.0, 2 * float(values.mean(dtype=np.float64))) if threshold == "adaptive" else threshold


def contrasts(values: Map, masks: Bitmap) -> NDArray[np.float32]:
    """Returns the mean of a map inside each mask minus its mean outside of all (0 where no pixel is), float32 (n,) in [0, 1].

    Args:
        values: float (H, W) in [0, 1].
        masks: bool (n, H, W), none empty.
    """
    outside = values[~masks.any(axis=0)]
    rest = float(outside.mean(dtype=np.float64)) if outside.size else 0.0
    inside = [float(values[mask].mean(dtype=np.float64)) for mask in masks]
    return np.clip(np.array(inside) - rest, 0, 1).astype(np.float32)
