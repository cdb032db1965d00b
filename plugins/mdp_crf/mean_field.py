"""Mean-field inference in a fully connected CRF with Potts labels (Krähenbühl and Koltun, NeurIPS 2011).

Conventions are those of the authors' code, which everyone calls ``pydensecrf``: the kernel is normalised symmetrically, a pixel
takes part in its own sum, and a message lowers the energy of the label that it speaks for. Kernels are linear and probabilities
sum to 1, so the last label's message follows from the others': L labels need L - 1 filterings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from mdp_core.api import Pixels
from mdp_crf.permutohedral import lattice

Values = NDArray[np.float32]
Kernel = Callable[[Values], Values]
"""A normalised kernel with its weight: float32 (N, channels) → float32 (N, channels)."""

CACHED = 1 << 16
"""Numbers worked on at a time where rows are independent."""
TRUNCATE = 4.0
"""The smoothness kernel ends at this many standard deviations, where it is below 4e-4."""


def mean_field(unary: Values, kernels: Sequence[Kernel], iterations: int) -> Values:
    """Approximates the marginals.

    Args:
        unary: float32 (N, labels), energies: -log of a probability, up to a constant a pixel.
        kernels: Weighted kernels over the N pixels.
        iterations: Updates, all pixels at once; 0 gives the softmax of the unaries.

    Returns:
        float32 (N, labels), rows that sum to 1.
    """
    total = np.zeros((len(unary), 1), np.float32)
    for kernel in kernels:
        total += kernel(np.ones_like(total))
    marginals = -unary
    for block in _blocks(unary):
        _softmax(marginals[block])
    for _ in range(iterations if kernels else 0):
        free = np.ascontiguousarray(marginals[:, :-1])
        messages = kernels[0](free)
        for kernel in kernels[1:]:
            messages += kernel(free)
        for block in _blocks(unary):
            scores = marginals[block]
            np.subtract(messages[block], unary[block, :-1], out=scores[:, :-1])
            scores[:, -1:] = total[block] - _row_sums(messages[block]) - unary[block, -1:]
            _softmax(scores)
    return marginals


def bilateral(pixels: Pixels, weight: float, sxy: float, srgb: float) -> Kernel:
    """Returns the appearance kernel: a Gaussian in position and colour, through a permutohedral lattice.

    The order of the colour channels does not matter: the kernel depends on the length of their difference alone.

    Args:
        pixels: uint8 (H, W, 3).
        weight: Factor of the normalised kernel.
        sxy: Standard deviation in pixels.
        srgb: Standard deviation in colour levels (0 to 255).

    Raises:
        OverflowError: The standard deviations are too small for an image of this size.
    """
    height, width = pixels.shape[:2]
    features = np.empty((5, height, width), np.float32)
    features[0] = np.arange(width, dtype=np.float32) / np.float32(sxy)
    features[1] = (np.arange(height, dtype=np.float32) / np.float32(sxy))[:, None]
    np.divide(pixels.transpose(2, 0, 1), np.float32(srgb), out=features[2:])
    built = lattice(features.reshape(5, -1))
    built.normalise()

    def apply(values: Values) -> Values:
        filtered = built.filter(values)
        filtered *= np.float32(weight)
        return filtered

    return apply


def gaussian(height: int, width: int, weight: float, sxy: float) -> Kernel:
    """Returns the smoothness kernel: a Gaussian in position, as two convolutions; there are no pixels beyond the image.

    Args:
        height: Image height in pixels.
        width: Image width in pixels.
        weight: Factor of the normalised kernel.
        sxy: Standard deviation in pixels.
    """
    radius = int(np.ceil(TRUNCATE * sxy))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sxy) ** 2).astype(np.float32)

    def blur(image: Values) -> Values:
        blurred = cv2.sepFilter2D(image, cv2.CV_32F, taps, taps, borderType=cv2.BORDER_CONSTANT)
        return blurred.reshape(image.shape)

    scale = np.sqrt(1 / blur(np.ones((height, width, 1), np.float32)))

    def apply(values: Values) -> Values:
        filtered = blur(values.reshape(height, width, -1) * scale)
        filtered *= scale * np.float32(weight)
        return filtered.reshape(values.shape)

    return apply


def _blocks(values: Values) -> list[slice]:
    """Returns slices of rows that stay in the processor's cache while they are worked on."""
    rows = max(1, CACHED // values.shape[1])
    return [slice(start, start + rows) for start in range(0, len(values), rows)]


def _row_sums(values: Values) -> Values:
    """Returns the sums of the rows, (n, 1); a product, as NumPy's own sum is slow along short rows."""
    return values @ np.ones((values.shape[1], 1), np.float32)


def _softmax(scores: Values) -> None:
    """Replaces scores by their softmax over the last axis."""
    highest = scores[:, :1].copy()
    for column in range(1, scores.shape[1]):
        np.maximum(highest, scores[:, column : column + 1], out=highest)
    scores -= highest
    np.exp(scores, out=scores)
    scores /= _row_sums(scores)
