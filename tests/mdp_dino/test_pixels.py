"""From patches to pixels, with both rules."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mdp_dino.pixels import to_pixels

SIDES = st.tuples(st.integers(1, 50), st.integers(1, 50))


@given(SIDES, st.tuples(*[st.integers(1, 40)] * 2), st.integers(1, 9), st.integers(0, 99))
def test_nearest_equals_the_three_steps_in_turn(size, resized, patch, seed):
    (height, width), (tall, wide) = size, resized
    grid = np.random.default_rng(seed).random((-(-tall // patch), -(-wide // patch))) < 0.5
    repeated = grid.repeat(patch, axis=0).repeat(patch, axis=1)[:tall, :wide]  # nearest, then crop the padding
    wanted = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            wanted[y, x] = repeated[(2 * y + 1) * tall // (2 * height), (2 * x + 1) * wide // (2 * width)]
    assert to_pixels(grid, patch, (tall, wide), (height, width)).tolist() == wanted.tolist()


@given(SIDES, st.tuples(*[st.integers(1, 40)] * 2), st.integers(1, 9), st.integers(0, 99))
def test_bicubic_any_equals_the_steps_in_turn(size, resized, patch, seed):
    grid = np.random.default_rng(seed).random((-(-resized[0] // patch), -(-resized[1] // patch))) < 0.3
    large = np.zeros(resized, np.uint8)
    for y in range(resized[0]):
        for x in range(resized[1]):
            large[y, x] = 255 * grid[y // patch, x // patch]
    filtered = Image.fromarray(large).resize(size[::-1])  # Pillow's default filter is the bicubic one
    found = to_pixels(grid, patch, resized, size, "bicubic-any")
    assert (found == np.asarray(filtered).astype(bool)).all()


def test_masks_grow_by_about_a_pixel():
    """As was measured: a small object gains a tenth of its area, a large one a fiftieth, over the threshold 127."""
    for side, least, most in ((48, 1.06, 1.16), (320, 1.005, 1.03)):
        grid = np.zeros((40, 54), bool)
        grid[4 : 4 + side // 16, 5 : 5 + side // 16] = True
        large = Image.fromarray(np.kron(grid, np.ones((16, 16), np.uint8))[:640, :853] * 255)
        half = np.asarray(large.resize((500, 375), Image.BICUBIC)) > 127
        assert least < to_pixels(grid, 16, (640, 853), (375, 500), "bicubic-any").sum() / half.sum() < most


def test_an_image_of_the_resized_size_is_not_filtered():
    grid = np.random.default_rng(0).random((5, 6)) < 0.5
    both = [to_pixels(grid, 8, (37, 46), (37, 46), rule) for rule in ("nearest", "bicubic-any")]
    assert (both[0] == both[1]).all()
