"""Spectral residual against a Fourier transform and an average by loops."""

import cmath
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp_handcrafted.spectral_residual import residual, spectral_residual_map


def literal_transform(values: np.ndarray, sign: int) -> np.ndarray:
    height, width = values.shape
    found = np.zeros((height, width), np.complex128)
    for v in range(height):
        for u in range(width):
            for y in range(height):
                for x in range(width):
                    found[v, u] += values[y, x] * cmath.exp(sign * 2j * math.pi * (v * y / height + u * x / width))
    return found


def literal_residual(grey: np.ndarray) -> np.ndarray:
    height, width = grey.shape
    spectrum = literal_transform(grey, -1)
    log = np.array([[math.log(abs(c) + 1e-9) for c in row] for row in spectrum])
    left = np.zeros_like(spectrum)
    for v in range(height):
        for u in range(width):
            around = [
                log[min(max(v + dv, 0), height - 1), min(max(u + du, 0), width - 1)] for dv in (-1, 0, 1) for du in (-1, 0, 1)
            ]
            left[v, u] = cmath.exp(log[v, u] - sum(around) / 9 + 1j * cmath.phase(spectrum[v, u]))
    return np.abs(literal_transform(left, 1) / (height * width)) ** 2


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.tuples(st.integers(1, 8), st.integers(1, 8)))
def test_equals_the_equations(seed, size):
    grey = np.random.default_rng(seed).random(size) * 255
    np.testing.assert_allclose(residual(grey), literal_residual(grey), rtol=1e-6, atol=1e-9)


def test_a_small_thing_on_a_natural_ground_stands_out():
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64))) + 1 / 64
    ground = np.fft.ifft2(np.exp(2j * np.pi * rng.random((64, 64))) / frequency).real  # amplitudes fall as in photographs
    grey = 110 + 40 * ground / np.abs(ground).max()
    grey[40:45, 20:25] = 250
    found = spectral_residual_map(grey[..., None].repeat(3, axis=-1).astype(np.uint8))
    assert found.max() == pytest.approx(1)
    assert np.hypot(*(np.array(np.unravel_index(found.argmax(), found.shape)) - (42, 22))) < 5


def test_size_is_the_image_s_and_one_grey_is_nothing():
    assert spectral_residual_map(np.random.default_rng(0).integers(0, 256, (150, 90, 3), dtype=np.uint8)).shape == (150, 90)
    assert not spectral_residual_map(np.full((20, 30, 3), 200, np.uint8)).any()
