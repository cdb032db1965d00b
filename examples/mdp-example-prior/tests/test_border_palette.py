"""Tests of the prior's mathematics, and of what it finds."""

import numpy as np
import pytest
from mdp_core.api import Context, ImageRecord, Images, Instances
from skimage.color import rgb2lab

from mdp_example_prior.border_palette import BorderPalette, frame, palette, unexplained
from mdp_example_prior.settings import BorderPaletteConfig


def mined(pixels: np.ndarray, **settings: object) -> Instances:
    prior = BorderPalette(BorderPaletteConfig.model_validate({"smooth": 0, **settings}), Context())
    return next(prior.mine(Images([ImageRecord("image", *pixels.shape[:2])], lambda _: pixels)))


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Sky above, grass below, and a red object on both."""
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[:30], pixels[30:] = (120, 170, 230), (60, 140, 50)
    mask = np.zeros((60, 80), bool)
    mask[20:45, 30:55] = True
    pixels[mask] = (200, 30, 40)
    return pixels, mask


def test_a_background_of_two_colours_is_background() -> None:
    pixels, mask = scene()
    found = mined(pixels, colours=2)
    np.testing.assert_array_equal(found.to_masks(), mask[None])
    assert found.scores[0] == 1.0


def test_one_colour_cannot_explain_it() -> None:
    pixels, _ = scene()
    assert len(mined(pixels, colours=1)) == 0


def test_the_largest_objects_come_first() -> None:
    pixels = np.full((60, 80, 3), 40, np.uint8)
    pixels[10:20, 10:20] = pixels[30:50, 30:60] = pixels[10:24, 40:54] = (230, 200, 30)
    found = mined(pixels, max_objects=2)
    assert found.areas().tolist() == [600, 196]


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 2), (30, 30)])
def test_one_colour_has_no_object(shape: tuple[int, int]) -> None:
    assert len(mined(np.full((*shape, 3), 90, np.uint8))) == 0


def test_distances_are_those_of_a_literal_loop() -> None:
    rng = np.random.default_rng(1)
    lab = rgb2lab(rng.integers(0, 256, (6, 7, 3)).astype(np.uint8))
    centres = palette(lab[frame(lab, 0.1)], 3)
    literal = [[min(np.linalg.norm(colour - centre) for centre in centres) for colour in row] for row in lab]
    np.testing.assert_allclose(unexplained(lab, centres), literal, rtol=1e-9)


def test_no_more_centres_than_colours() -> None:
    colours = np.repeat([[10.0, 0, 0], [90.0, 0, 0]], 5, axis=0)
    np.testing.assert_allclose(np.sort(palette(colours, 8), axis=0), [[10, 0, 0], [90, 0, 0]])
