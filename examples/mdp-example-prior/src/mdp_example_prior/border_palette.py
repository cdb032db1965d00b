"""Prior example-prior: what no colour of the border explains.

The frame of a photograph mostly shows background (the boundary prior of Wei et al., "Geodesic Saliency Using Background
Priors", ECCV 2012). Its colours are summed up by a few centres (k-means in CIELAB); a pixel is foreground by its distance from
the nearest centre; Otsu's threshold splits the distances, and connected parts are objects.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from mdp_core.api import Bitmap, GroupingPrior, Images, Instances, Pixels
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2lab
from skimage.filters import threshold_otsu
from skimage.measure import label

from mdp_example_prior.settings import BorderPaletteConfig

_BARELY_VISIBLE = 2.3
"""Distance in CIELAB that an eye just notices: below it, there is nothing to tell apart."""


class BorderPalette(GroupingPrior[BorderPaletteConfig]):
    """Up to ``max_objects`` masks an image, largest first."""

    Config = BorderPaletteConfig

    def mine(self, images: Images) -> Iterator[Instances]:
        """Yields the masks of each image; the score is how much of an object's distance is contrast, not spread."""
        config = self.config
        for pixels in images:
            lab = rgb2lab(pixels).astype(np.float64)
            centres = palette(lab[frame(pixels, config.border)], config.colours)
            distance = gaussian_filter(unexplained(lab, centres), config.smooth)
            masks = parts(distance, config.min_area)[: config.max_objects]
            scores = np.array([contrast(distance, mask) for mask in masks])
            stacked = np.array(masks, np.bool_).reshape(-1, *distance.shape)
            kept = scores >= config.min_score
            yield Instances.from_masks(stacked[kept], scores=scores[kept])


def frame(pixels: Pixels, share: float) -> Bitmap:
    """Returns bool (H, W): the pixels nearer to the image's edge than ``share`` of its shorter side (at least one pixel)."""
    height, width = pixels.shape[:2]
    thickness = max(1, round(share * min(height, width)))
    inside = np.zeros((height, width), np.bool_)
    inside[thickness : height - thickness, thickness : width - thickness] = True
    return ~inside


def palette(colours: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Returns at most ``count`` centres, float64 (k, 3), of colours float64 (n, 3); deterministic.

    k-means starts from colours that are evenly spaced in order of lightness, so no chance is involved.
    """
    distinct = np.unique(colours, axis=0)  # sorted by lightness
    start = distinct[np.linspace(0, len(distinct) - 1, min(count, len(distinct))).round().astype(int)]
    centres, member = (
        kmeans2(colours, start, minit="matrix", iter=10) if len(start) > 1 else (colours.mean(axis=0)[None], np.zeros(1, int))
    )
    return centres[np.unique(member)]


def unexplained(lab: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the distance of each pixel's colour from the nearest centre, float64 (H, W); ``lab`` is (H, W, 3)."""
    return vq(lab.reshape(-1, 3), centres)[1].reshape(lab.shape[:2])


def parts(distance: NDArray[np.float64], min_area: float) -> list[Bitmap]:
    """Returns the 4-connected parts above Otsu's threshold, largest first; none where no difference is visible."""
    if np.ptp(distance) < _BARELY_VISIBLE:
        return []
    labels = label(distance > threshold_otsu(distance), connectivity=1)
    areas = np.bincount(labels.ravel())[1:]
    order = np.argsort(-areas, kind="stable")
    return [labels == number + 1 for number in order if areas[number] >= min_area * distance.size]


def contrast(distance: NDArray[np.float64], mask: Bitmap) -> float:
    """Returns (a - b) / (a + b), in [0, 1], of the mean distances a of the mask and b of the rest: 1 where the rest is background alone."""
    if mask.all():
        return 0.0
    inside, outside = distance[mask].mean(), distance[~mask].mean()
    return float(np.clip((inside - outside) / (inside + outside), 0.0, 1.0))
