"""The bilateral solver against a dense version that is made of dictionaries and loops."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp_dino.bilateral_solver import cells, grid_of, solve

SIGMAS = {"sigma_spatial": 16, "sigma_luma": 16, "sigma_chroma": 8}
TO_YUV = (("0.299", "0.587", "0.114", "0"), ("-0.168736", "-0.331264", "0.5", "128"), ("0.5", "-0.418688", "-0.081312", "128"))


def literal_cells(pixels: np.ndarray, spatial: float, luma: float, chroma: float) -> list[tuple[int, ...]]:
    """Exact arithmetic, pixel by pixel."""
    found = []
    for y in range(pixels.shape[0]):
        for x in range(pixels.shape[1]):
            colour = [int(value) for value in pixels[y, x]]
            yuv = [sum(Fraction(w) * v for w, v in zip(row, [*colour, 1], strict=True)) for row in TO_YUV]
            widths = (spatial, spatial, luma, chroma, chroma)
            found.append(tuple(int(v / Fraction(w)) for v, w in zip((y, x, *yuv), widths, strict=True)))
    return found


def literal_system(pixels, target, confidence, spatial, luma, chroma, smoothness) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """A, b and the vertex of each pixel."""
    cell_of_pixel = literal_cells(pixels, spatial, luma, chroma)
    vertices = {cell: index for index, cell in enumerate(dict.fromkeys(cell_of_pixel))}
    vertex, count = [vertices[cell] for cell in cell_of_pixel], len(vertices)
    blur = np.zeros((count, count))
    for cell, index in vertices.items():
        blur[index, index] = 10
        for axis in range(5):
            for step in (-1, 1):
                neighbour = (*cell[:axis], cell[axis] + step, *cell[axis + 1 :])
                if neighbour in vertices:
                    blur[index, vertices[neighbour]] = 1
    splat = np.zeros((count, len(vertex)))
    for pixel, index in enumerate(vertex):
        splat[index, pixel] = 1
    n = np.ones(count)
    for _ in range(10):
        n = np.sqrt(n * splat.sum(axis=1) / (blur @ n))
    smooth = np.diag(n * (blur @ n)) - np.diag(n) @ blur @ np.diag(n)
    c, t = np.broadcast_to(confidence, target.shape).ravel().astype(float), target.ravel().astype(float)
    return smoothness * smooth + np.diag(splat @ c), splat @ (c * t), vertex


def literal_steps(matrix: np.ndarray, right: np.ndarray, start: np.ndarray, steps: int) -> np.ndarray:
    """Conjugate gradients with Jacobi's preconditioner, from the textbook."""
    x, inverse = start.copy(), 1 / np.maximum(np.diag(matrix), 1e-5)
    residual = right - matrix @ x
    z = inverse * residual
    direction = z.copy()
    for _ in range(steps):
        if np.linalg.norm(residual) <= 1e-5 * np.linalg.norm(right):
            break
        step = (residual @ z) / (direction @ matrix @ direction)
        x, before = x + step * direction, residual @ z
        residual = residual - step * (matrix @ direction)
        z = inverse * residual
        direction = z + (residual @ z) / before * direction
    return x


def picture(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), random.integers(0, 256, 3), np.uint8)
    pixels[: height // 2, : width // 2 + 1] = random.integers(0, 256, 3)
    noise = random.integers(0, 40)
    pixels = np.clip(pixels + random.normal(0, noise, pixels.shape), 0, 255).astype(np.uint8)
    return pixels, random.random((height, width), np.float32), random.random((height, width), np.float32) + np.float32(0.01)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    sigmas=st.tuples(st.integers(1, 8), st.integers(4, 64), st.integers(4, 64)),
    smoothness=st.sampled_from([0, 1, 16, 256]),
    one=st.booleans(),
)
def test_equals_the_dense_solution(*, seed, height, width, sigmas, smoothness, one):
    pixels, target, confidence = picture(height, width, seed)
    confidence = 0.999 if one else confidence
    matrix, right, vertex = literal_system(pixels, target, confidence, *sigmas, smoothness)
    named = dict(zip(SIGMAS, sigmas, strict=True))
    exact = np.linalg.solve(matrix, right)[vertex].reshape(target.shape)
    found = solve(pixels, target, confidence, **named, smoothness=smoothness, iterations=2000, tolerance=1e-12)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, atol=1e-6)
    flat = right / np.diag(literal_system(pixels, target, confidence, *sigmas, 0)[0])
    short = np.clip(literal_steps(matrix, right, flat, 5), 0, 1)[vertex].reshape(target.shape)
    np.testing.assert_allclose(
        solve(pixels, target, confidence, **named, smoothness=smoothness, iterations=5), short, atol=1e-6
    )


@given(seed=st.integers(0, 1000), sigmas=st.tuples(*[st.integers(6, 200)] * 3))
def test_cells_are_those_of_exact_arithmetic(seed, sigmas):
    pixels, _, _ = picture(4, 5, seed)
    sigmas = [sigma / 4 for sigma in sigmas]
    assert [tuple(cell) for cell in cells(pixels, *sigmas).T.tolist()] == literal_cells(pixels, *sigmas)


def test_grey_pixels_share_a_cell_though_their_chroma_lies_on_its_border():
    grey = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
    assert (cells(grey, 16, 16, 8)[3:] == 16).all()


def test_the_blur_is_symmetric_and_rows_of_the_laplacian_sum_to_nothing():
    pixels, _, _ = picture(30, 40, 3)
    grid = grid_of(cells(pixels, 4, 8, 8))
    assert (grid.blur != grid.blur.T).nnz == 0
    assert np.abs(grid.laplacian().sum(axis=1)).max() < 1e-9


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (9, 13)])
@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_one_colour_and_one_target_stay_what_they_are(size, value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = solve(np.full((*size, 3), 77, np.uint8), np.full(size, value, np.float32), 0.999, **SIGMAS)
    np.testing.assert_allclose(found, value, atol=1e-6)
    assert found.shape == size


def test_without_any_confidence_there_is_nothing_to_say():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not solve(np.zeros((5, 6, 3), np.uint8), np.ones((5, 6), np.float32), 0.0, **SIGMAS).any()


def test_where_nothing_is_known_what_looks_alike_speaks():
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, 16:] = 200
    target = np.zeros((32, 32), np.float32)
    confidence = np.zeros((32, 32), np.float32)
    confidence[10:14], target[10:14, 16:] = 1, 1
    found = solve(pixels, target, confidence, sigma_spatial=4, sigma_luma=8, sigma_chroma=8, iterations=500)
    assert found[:, 16:].min() > 0.99
    assert found[:, :16].max() < 0.01


def test_a_border_moves_to_the_edge_of_the_image():
    pixels = np.zeros((48, 48, 3), np.uint8)
    pixels[8:40, 8:40] = (200, 80, 40)
    target = np.zeros((48, 48), np.float32)
    target[4:36, 4:36] = 1  # off by four pixels
    found = solve(pixels, target, 0.999, sigma_spatial=16, sigma_luma=16, sigma_chroma=8) > 0.5
    assert (found == (pixels[..., 0] == 200)).mean() > (target == (pixels[..., 0] == 200)).mean()
    assert not found[(pixels[..., 0] == 0)].any()


def test_cells_too_small_to_be_numbered_are_refused():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    with pytest.raises(OverflowError, match="larger sigmas"):
        solve(pixels, np.ones((20, 20), np.float32), 1.0, sigma_spatial=1e-3, sigma_luma=1e-3, sigma_chroma=1e-3)


def test_a_photograph_equals_the_dense_solution(photographs):
    for photograph in photographs(10):
        pixels = photograph[::10, ::10]
        target = (np.indices(pixels.shape[:2]).sum(axis=0) % 30 < 12).astype(np.float32)
        matrix, right, vertex = literal_system(pixels, target, 0.999, 4, 16, 8, 256)
        exact = np.linalg.solve(matrix, right)[vertex].reshape(target.shape)
        sigmas = {"sigma_spatial": 4, "sigma_luma": 16, "sigma_chroma": 8}
        converged = solve(pixels, target, 0.999, **sigmas, iterations=2000, tolerance=1e-12)
        np.testing.assert_allclose(converged, exact, atol=1e-6)
