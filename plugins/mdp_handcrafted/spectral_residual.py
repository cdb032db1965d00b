"""Saliency by spectral residual: what the logarithm of the spectrum has beyond its own average. The weak baseline.

Hou, Zhang: Saliency Detection: A Spectral Residual Approach, CVPR 2007. It knows no colours and no borders of objects.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mdp_handcrafted.colour import NOTICEABLE, to_lab, within

WIDTH = 64
"""Longer side, in pixels, at which the spectrum is taken: the scale of what is looked for."""
AVERAGE = 3
"""Side of the box that the log spectrum is averaged with (h_n)."""
SIGMA = 2.5
"""Standard deviation (pixels of the small image) of the Gaussian g that smooths the map; the authors' program has it."""


def spectral_residual_map(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns how much each pixel stands out, in [0, 1] with a maximum of 1; zeros where no grey can be told from another.

    Args:
        pixels: uint8 (H, W, 3) RGB.
    """
    small = within(pixels, WIDTH)
    lightness = to_lab(small)[..., 0]
    if np.ptp(lightness) < NOTICEABLE:
        return np.zeros(pixels.shape[:2])
    found = residual(small.mean(axis=-1))
    smooth = ndimage.gaussian_filter(found, SIGMA, mode="nearest")
    low, high = smooth.min(), smooth.max()
    stretched = (smooth - low) / (high - low) if high > low else np.zeros(smooth.shape)
    size = pixels.shape[1], pixels.shape[0]
    return np.asarray(cv2.resize(stretched, size, interpolation=cv2.INTER_LINEAR))


def residual(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns |F⁻¹[exp(R + iP)]|² (Eq. 4 and 5), before it is smoothed.

    Args:
        grey: float64 (h, w).
    """
    spectrum = np.fft.fft2(grey)
    log = np.log(np.abs(spectrum) + 1e-9)  # an amplitude of zero has no logarithm
    averaged = ndimage.uniform_filter(log, AVERAGE, mode="nearest")
    return np.abs(np.fft.ifft2(np.exp(log - averaged + 1j * np.angle(spectrum)))) ** 2
