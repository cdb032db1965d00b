"""Prior ``grabcut``: what differs in colour from the rest of the image inside a box.

Rother, Kolmogorov, Blake: GrabCut, Interactive Foreground Extraction using Iterated Graph Cuts, SIGGRAPH 2004; the program is OpenCV's.
Without boxes it is the simplest prior of all: the object is in the middle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mdp_core.api import Bitmap, DataError, GroupingPrior, ImageRecord, Images, Instances, Pixels
from mdp_handcrafted.annotations import AnnotationFile, Annotations, mask_of, short
from mdp_handcrafted.colour import within
from mdp_handcrafted.settings.grabcut import GrabCutConfig

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as shares of the image's width and height."""
Corners = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, ends exclusive."""

SEED = 0
"""OpenCV's random numbers start here for each box, so that a result depends on nothing that was done before."""
COMPONENTS = 5
"""Gaussians of each of the two mixtures, as OpenCV has them."""


@dataclass(frozen=True)
class Mixture:
    """Gaussians over BGR colours.

    Attributes:
        weights: float64 (5,), their sum is 1 (0 if nothing was learnt).
        means: float64 (5, 3).
        covariances: float64 (5, 3, 3).
    """

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    covariances: NDArray[np.float64]

    @classmethod
    def from_opencv(cls, model: NDArray[np.float64]) -> Mixture:
        """Reads OpenCV's float64 (1, 65): weights, means, covariances."""
        weights, means, covariances = np.split(model.ravel(), (COMPONENTS, 4 * COMPONENTS))
        return cls(weights, means.reshape(-1, 3), covariances.reshape(-1, 3, 3))

    def likelihood(self, colours: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the density at each colour, float64 (n,), without the factor (2π)^(-3/2).

        Args:
            colours: float64 (n, 3).
        """
        total = np.zeros(len(colours))
        for weight, mean, covariance in zip(self.weights, self.means, self.covariances, strict=True):
            if weight > 0:
                determinant = np.linalg.det(covariance)
                apart = colours - mean
                away = np.einsum("ni,ij,nj->n", apart, np.linalg.inv(covariance), apart)
                total += weight / np.sqrt(determinant) * np.exp(-away / 2)
        return total


@dataclass(frozen=True)
class Cut:
    """What GrabCut made of a box.

    Attributes:
        mask: bool (H, W).
        score: How much better than chance the colours alone tell the mask from the rest of the box, in [0, 1].
    """

    mask: Bitmap
    score: float


class GrabCut(GroupingPrior[GrabCutConfig]):
    """Cuts the object of each box out of its background."""

    Config = GrabCutConfig

    @cached_property
    def _file(self) -> AnnotationFile:
        return AnnotationFile(Path(self.config.boxes or "").expanduser())

    def mine(self, images: Images) -> Iterator[Instances]:
        """Yields one mask a box, where GrabCut found an object in it.

        Raises:
            DataError: The file of boxes is damaged, or does not list an image (with ``missing: error``).
        """
        found = [self._boxes(record) for record in images.records]
        for index, (record, boxes) in enumerate(zip(images.records, found, strict=True)):
            pixels = images.read(index)
            small = within(pixels, self.config.side)
            cuts = [
                cut(small, box, self.config.iterations, self.config.min_area, whole=self.config.component == "all")
                for box in boxes
            ]
            kept = [one for one in cuts if one is not None and one.score >= self.config.min_score]
            masks = [_enlarged(one.mask, (record.height, record.width)) for one in kept]
            there = [i for i, mask in enumerate(masks) if mask.any()]
            stacked = np.stack([masks[i] for i in there]) if there else np.zeros((0, record.height, record.width), np.bool_)
            yield Instances.from_masks(stacked, scores=[kept[i].score for i in there])

    def _boxes(self, record: ImageRecord) -> Sequence[Box]:
        if self.config.boxes is None:
            margin = self.config.margin
            return [(margin, margin, 1 - margin, 1 - margin)]
        found = self._file.of(record)
        if found is None and self.config.missing == "error":
            raise DataError(
                f"{self._file.path}: not listed: image {record.id}",
                hint="set missing: empty where images that are not listed have no object",
            )
        return [] if found is None else [box_of(item, found, record) for item in found.items]


def box_of(annotation: dict[str, Any], found: Annotations, record: ImageRecord) -> Box:
    """Returns an annotation's box as shares of the image: ``bbox`` (x, y, width, height in pixels), or that of its mask.

    Raises:
        DataError: It has neither, or the file gives another size for the image.
    """
    size = (record.height, record.width)
    if found.size not in (None, size):
        raise DataError(
            f"{found.where}: boxes in an image of {found.size[1]} × {found.size[0]} pixels (width × height), and it has "
            f"{size[1]} × {size[0]}",
            hint="the boxes are of another copy of the image",
        )
    box = annotation.get("bbox")
    if box is None:
        mask = mask_of(annotation, size, found.where)
        if mask.shape != size:
            raise DataError(f"{found.where}: a mask of another size, {mask.shape[1]} × {mask.shape[0]} pixels (width × height)")
        (x0, x1), (y0, y1) = _span(mask.any(axis=0)), _span(mask.any(axis=1))
        box = [x0, y0, x1 - x0, y1 - y0]
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box)
    if not numbers or not np.isfinite(np.array(box, np.float64)).all():
        raise DataError(f"{found.where}: the box of an annotation is {short(box)}", hint="bbox is [x, y, width, height]")
    x, y, width, height = (float(side) for side in box)
    return x / size[1], y / size[0], (x + width) / size[1], (y + height) / size[0]


def cut(pixels: Pixels, box: Box, iterations: int, min_area: float, *, whole: bool = False) -> Cut | None:
    """Returns the object of a box, or None where GrabCut collapses.

    It does where the box has no pixels or leaves none outside, where less than ``min_area`` of the box is left, and where
    the colours tell the mask from the rest no better than chance (an image of one colour).

    Args:
        pixels: uint8 (H, W, 3) RGB.
        box: Shares of width and height.
        iterations: Rounds of learning and cutting.
        min_area: Smallest mask as a share of the box.
        whole: Keep all of the mask, not only its largest part.
    """
    size = pixels.shape[0], pixels.shape[1]
    x0, y0, x1, y1 = corners(box, size)
    area = (x1 - x0) * (y1 - y0)
    if area == 0 or area == size[0] * size[1]:
        return None
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    labels = np.zeros(size, np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(SEED)
    cv2.grabCut(bgr, labels, (x0, y0, x1 - x0, y1 - y0), *models, iterations, cv2.GC_INIT_WITH_RECT)
    mask = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    mask = mask if whole else largest_part(mask)
    if mask.sum() < max(1.0, min_area * area):
        return None
    background, foreground = (Mixture.from_opencv(model).likelihood(bgr.reshape(-1, 3).astype(np.float64)) for model in models)
    score = agreement(mask, (foreground - background).reshape(size))
    return Cut(mask, score) if score > 0 else None


def largest_part(mask: Bitmap) -> Bitmap:
    """Returns the largest 8-connected part of a mask; of equal ones the part that a row of the image meets first."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3), np.bool_))
    return np.asarray(labels == 1 + np.bincount(labels.ravel())[1:].argmax()) if count else mask


def agreement(mask: Bitmap, evidence: NDArray[np.float64]) -> float:
    """Returns how well the sign of the evidence tells a mask: the shares of the two sides that it gets right, less 1.

    Args:
        mask: bool (H, W).
        evidence: float64 (H, W), positive where a pixel looks like the object, negative where like the background, 0 where
            like both: it is then half right.

    Returns:
        0 for chance or worse (and where the mask is everything), 1 where every pixel's colour says what the mask says.
    """
    if mask.all() or not mask.any():
        return 0.0
    vote = (np.sign(evidence) + 1) / 2
    return float(np.clip(vote[mask].mean() + (1 - vote[~mask]).mean() - 1, 0, 1))


def corners(box: Box, size: tuple[int, int]) -> Corners:
    """Returns the pixels whose centres lie in a box, cut at the image of (height, width); x1 ≥ x0 and y1 ≥ y0."""
    height, width = size
    x0, x1 = (int(np.ceil(np.clip(share, -1, 2) * width - 0.5)) for share in box[::2])
    y0, y1 = (int(np.ceil(np.clip(share, -1, 2) * height - 0.5)) for share in box[1::2])
    x0, x1, y0, y1 = (min(max(at, 0), end) for at, end in ((x0, width), (x1, width), (y0, height), (y1, height)))
    return x0, y0, max(x0, x1), max(y0, y1)


def _span(there: NDArray[np.bool_]) -> tuple[int, int]:
    at = np.flatnonzero(there)
    return (int(at[0]), int(at[-1]) + 1) if len(at) else (0, 0)


def _enlarged(mask: Bitmap, size: tuple[int, int]) -> Bitmap:
    """Returns a mask at the image's size; its edge is where it is half covered."""
    if mask.shape == size:
        return mask
    resized = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized.reshape(size) > 0.5)
