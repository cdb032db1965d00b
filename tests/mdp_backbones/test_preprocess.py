"""Resizing, padding, normalising; order and size of batches."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mdp_backbones.preprocess import (
    HALF,
    IMAGENET,
    WINDOW,
    Normalisation,
    fill_outside,
    in_batches,
    pad_to_multiple,
    pad_with_zeros,
    read_ahead,
    resize,
    short_side_size,
    to_input,
)


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "short", "wanted"),
    [(100, 200, 50, (50, 100)), (200, 100, 50, (100, 50)), (375, 500, 640, (640, 853)), (7, 7, 9, (9, 9))],
)
def test_short_side(height, width, short, wanted):
    assert short_side_size(height, width, short) == wanted


def test_resize_halves_with_a_triangle_filter():
    column = np.zeros((8, 2, 3), np.uint8)
    column[4:] = 200
    resized = resize(column, 4, 2)[:, 0, 0]
    assert resized.tolist() == [0, 25, 175, 200]  # triangle of 4 pixels: weights 1 3 3 1 of 8
    assert resize(column, 8, 2) is column


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 16))
def test_padding_repeats_the_edge(height, width, multiple):
    pixels = image(height, width)
    padded = pad_to_multiple(pixels, multiple)
    assert padded.shape[0] % multiple == 0
    assert padded.shape[1] % multiple == 0
    assert padded.shape[0] - height < multiple
    assert padded.shape[1] - width < multiple
    for y in range(padded.shape[0]):
        for x in range(padded.shape[1]):
            assert (padded[y, x] == pixels[min(y, height - 1), min(x, width - 1)]).all()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 16))
def test_zeros_come_after_normalisation(height, width, multiple):
    inputs = to_input([image(height, width, seed) for seed in (0, 1)], torch.device("cpu"))
    padded = pad_with_zeros(inputs, multiple)
    assert padded.shape[-2:] == (height + -height % multiple, width + -width % multiple)
    assert torch.equal(padded[..., :height, :width], inputs)
    assert not padded[..., height:, :].any()
    assert not padded[..., :, width:].any()
    assert pad_with_zeros(padded, multiple) is padded


@pytest.mark.parametrize(
    ("normalisation", "means", "stds", "pixel"),
    [
        (IMAGENET, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), [124, 116, 104]),
        (HALF, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), [128, 128, 128]),
        (Normalisation((0.0, 0.25, 1.0), (1.0, 0.5, 0.1)), (0.0, 0.25, 1.0), (1.0, 0.5, 0.1), [0, 64, 255]),
    ],
)
def test_normalisation_literally(normalisation, means, stds, pixel):
    one, two = image(3, 4, 1), image(3, 4, 2)
    tensor = to_input([one, two], torch.device("cpu"), normalisation)
    assert tensor.dtype == torch.float32
    assert tensor.shape == (2, 3, 3, 4)
    for channel, (mean, std) in enumerate(zip(means, stds, strict=True)):
        wanted = (two[..., channel] / 255 - mean) / std
        np.testing.assert_allclose(tensor[1, channel].numpy(), wanted, atol=1e-6)
    assert normalisation.mean_pixel.dtype == np.uint8
    assert normalisation.mean_pixel.tolist() == pixel
    nearly_zero = to_input([normalisation.mean_pixel[None, None]], torch.device("cpu"), normalisation)
    assert (nearly_zero.abs().flatten() <= torch.tensor([0.51 / 255 / std for std in stds])).all()


def test_pixels_are_normalised_by_imagenet_unless_told_otherwise():
    assert (to_input([image(2, 3)], torch.device("cpu")) == to_input([image(2, 3)], torch.device("cpu"), IMAGENET)).all()


def test_outside_becomes_the_colour_given():
    pixels, mask = image(5, 6), np.zeros((5, 6), bool)
    mask[1:3, 2:4] = True
    filled = fill_outside(pixels, mask, IMAGENET.mean_pixel)
    assert filled.dtype == np.uint8
    assert (filled[mask] == pixels[mask]).all()
    assert (filled[~mask] == [124, 116, 104]).all()
    assert (fill_outside(pixels, mask, HALF.mean_pixel)[~mask] == 128).all()


@given(st.lists(st.integers(1, 4), max_size=60), st.integers(1, 5))
def test_batches_are_full_of_one_size_bounded_and_in_order(widths, batch):
    sizes: list[int] = []
    drawn = 0

    def inputs():
        nonlocal drawn
        for index, width in enumerate(widths):
            drawn += 1
            yield np.full((1, width, 3), index, np.uint8)

    def run(members: list[np.ndarray]) -> list[int]:
        assert len({member.shape for member in members}) == 1
        assert 1 <= len(members) <= batch
        sizes.append(len(members))
        return [int(member[0, 0, 0]) for member in members]

    results = []
    for result in in_batches(inputs(), run, batch):
        results.append(result)
        assert drawn - len(results) <= WINDOW * batch
    assert results == list(range(len(widths)))
    assert sum(sizes) == len(widths)
    if len(set(widths)) == 1:
        assert len(sizes) == -(-len(widths) // batch)


def test_reading_ahead_keeps_the_order_and_its_distance():
    made: list[int] = []
    for consumed, value in enumerate(read_ahead(lambda index: made.append(index) or index * 2, range(20), ahead=3)):
        assert value == consumed * 2
        assert len(made) <= consumed + 4
    assert made == list(range(20))


def test_reading_ahead_passes_errors_on_and_ends_its_thread():
    def make(index: int) -> int:
        if index == 2:
            raise ValueError("broken image")
        return index

    values = []
    with pytest.raises(ValueError, match="broken image"):
        values.extend(read_ahead(make, range(5)))
    stopped = read_ahead(make, range(2), ahead=1)
    next(stopped)
    stopped.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]
