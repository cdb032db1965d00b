"""Refiner ``dense-crf``: a fully connected CRF moves the borders of labels to those of the image (MaskDistill, Table S1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from mdp_core.api import Images, Instances, LabelMap, Pixels, Refiner, StageError
from mdp_crf.mean_field import bilateral, gaussian, mean_field
from mdp_refine.settings import DenseCrfConfig
from mdp_refine.unary import Unary, from_labels, from_probabilities, shrunk


class DenseCrf(Refiner[DenseCrfConfig]):
    """Mean-field inference with a smoothness and an appearance kernel; nothing in it is random.

    Pixels to be ignored stay ignored. An image with one label keeps it: no kernel can bring in another.
    """

    Config = DenseCrfConfig

    def refine(self, images: Images, predictions: Sequence[Instances] | Sequence[LabelMap]) -> Iterator[LabelMap]:
        """Yields one label map an image.

        Raises:
            StageError: A label map is of another size than its image, has no probabilities (or broken ones) where they are needed, the
                masks have no cluster, or the backend is not installed.
        """
        for index, (record, prediction) in enumerate(zip(images.records, predictions, strict=True)):
            painted = prediction if isinstance(prediction, LabelMap) else _painted(record.id, prediction)
            if painted.size != (record.height, record.width):
                raise StageError(
                    f"{record.id}: a label map of {painted.size[1]}×{painted.size[0]} px for an image of {record.width}×{record.height} px",
                    hint="predictions must be at the image's own size",
                )
            size = _working_size(painted.size, self.config.max_side)
            unary = self._unary(record.id, painted, size, hard=painted is not prediction)
            if len(unary.labels) == 0:
                yield LabelMap(painted.values)
                continue
            chosen = np.zeros(painted.size, np.int64)
            if len(unary.labels) > 1:
                marginals = self._marginals(record.id, resized(images.read(index), size), unary.energies)
                chosen = most_probable(marginals.reshape(*size, -1), painted.size)
            refined = unary.labels[chosen].astype(painted.values.dtype)
            yield LabelMap(np.where(painted.values == painted.ignore, painted.values, refined))

    def _unary(self, image_id: str, painted: LabelMap, size: tuple[int, int], *, hard: bool) -> Unary:
        config, probabilities = self.config, painted.probabilities
        if hard or config.unary == "labels":
            return from_labels(shrunk(painted, size), config.certainty)
        if probabilities is None:
            raise StageError(
                f"{image_id}: dense-crf needs probabilities, and the label map has none",
                hint="let the segmenter keep its probabilities, or set unary: labels",
            )
        if probabilities.ndim != 3 or not probabilities.size or not np.isfinite(probabilities).all():
            raise StageError(
                f"{image_id}: probabilities of shape {probabilities.shape} that are no finite numbers of (labels, height, width)",
                hint="the segmenter's training diverged, or its plugin is at fault",
            )
        return from_probabilities(probabilities, size, least=config.least_probability, floor=config.label_floor)

    def _marginals(self, image_id: str, pixels: Pixels, energies: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.config.backend == "pydensecrf":
            return by_pydensecrf(pixels, energies, self.config)
        try:
            return builtin(pixels, energies, self.config)
        except OverflowError as error:
            raise StageError(
                f"{image_id}: the bilateral kernel is too narrow for an image of {pixels.shape[1]}×{pixels.shape[0]} px",
                hint="raise bilateral.srgb or bilateral.sxy",
            ) from error


def builtin(pixels: Pixels, energies: NDArray[np.float32], config: DenseCrfConfig) -> NDArray[np.float32]:
    """Returns the marginals, float32 (H·W, L), by our own lattice.

    Args:
        pixels: uint8 (H, W, 3).
        energies: float32 (H·W, L), at least two labels.
        config: The kernels and the number of iterations.
    """
    height, width = pixels.shape[:2]
    kernels = []
    if config.gaussian.weight:
        kernels.append(gaussian(height, width, config.gaussian.weight, config.gaussian.sxy))
    if config.bilateral.weight:
        kernels.append(bilateral(pixels, config.bilateral.weight, config.bilateral.sxy, config.bilateral.srgb))
    return mean_field(energies, kernels, config.iterations)


def by_pydensecrf(pixels: Pixels, energies: NDArray[np.float32], config: DenseCrfConfig) -> NDArray[np.float32]:
    """Returns the marginals, float32 (H·W, L), by pydensecrf; the arguments are those of ``builtin``.

    Raises:
        StageError: It is not installed.
    """
    try:
        from pydensecrf import densecrf
    except ImportError as error:
        raise StageError(
            f"the backend pydensecrf cannot be imported ({error})",
            hint='pip install "mdp-platform[crf]" (needs a C++ compiler), or use the default, backend: builtin',
        ) from error
    height, width = pixels.shape[:2]
    labels = energies.shape[1]
    crf = densecrf.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(energies.T))
    one, two = config.gaussian, config.bilateral
    if one.weight:
        crf.addPairwiseGaussian(sxy=one.sxy, compat=one.weight)
    if two.weight:
        crf.addPairwiseBilateral(sxy=two.sxy, srgb=two.srgb, rgbim=np.ascontiguousarray(pixels), compat=two.weight)
    return np.array(crf.inference(config.iterations), dtype=np.float32).reshape(labels, -1).T


def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Returns pixels at (height, width), by area means; the same array where the size is its own."""
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_AREA), np.uint8)


def most_probable(marginals: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.int64]:
    """Returns the column of the largest marginal (the first of equals) of each pixel, int64 ``size``; bilinear where sizes differ.

    Args:
        marginals: float32 (h, w, L).
        size: (H, W).
    """
    if marginals.shape[:2] == size:
        return marginals.argmax(2)
    best, winner = np.full(size, -1, np.float32), np.zeros(size, np.int64)
    for column in range(marginals.shape[2]):
        channel = cv2.resize(np.ascontiguousarray(marginals[..., column]), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        winner[channel > best] = column
        np.maximum(best, channel, out=best)
    return winner


def _working_size(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    scale = 1.0 if max_side is None else min(1.0, max_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _painted(image_id: str, instances: Instances) -> LabelMap:
    if (instances.labels < 0).any():
        raise StageError(
            f"{image_id}: masks without a cluster cannot become a label map",
            hint="put a clusterer or a detector before the refiner",
        )
    return LabelMap.paint(instances)
