import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from mmseg.registry import MODELS

from mdp_mmseg.hard_pixels import IGNORE_INDEX, HardPixelLoss, hard_pixel_loss


def _literal(logits, labels, fraction):
    """Eq. 4 pixel by pixel in float64; also returns the chosen pixels."""
    n, _, height, width = logits.shape
    losses = []
    for i in range(n):
        for y in range(height):
            for x in range(width):
                label = int(labels[i, y, x])
                if label != IGNORE_INDEX:
                    scores = [float(v) for v in logits[i, :, y, x]]
                    top = max(scores)
                    log_sum = top + math.log(sum(math.exp(s - top) for s in scores))
                    losses.append((log_sum - scores[label], (i, y, x)))
    chosen = sorted(losses, reverse=True)[: max(1, math.floor(fraction * n * height * width))]
    return (sum(loss for loss, _ in chosen) / len(chosen) if chosen else 0.0), [pixel for _, pixel in chosen]


def _case(seed, shape, ignored):
    """Random logits (n, classes, height, width), and labels of which a share is ignored."""
    n, classes, height, width = shape
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 3, shape).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, classes, (n, height, width)))
    labels[torch.from_numpy(rng.random((n, height, width)) < ignored)] = IGNORE_INDEX
    return logits, labels


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 3), st.integers(2, 5), st.integers(1, 6), st.integers(1, 6)),
    ignored=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    fraction=st.sampled_from([0.01, 0.2, 0.5, 0.97, 1.0]),
)
def test_equals_the_literal_loss(seed, shape, ignored, fraction):
    logits, labels = _case(seed, shape, ignored)
    expected, _ = _literal(logits, labels, fraction)
    assert float(hard_pixel_loss(logits, labels, fraction)) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("ignored", [0.0, 0.4, 0.9])
def test_the_gradient_is_that_of_the_chosen_pixels_alone(ignored):
    logits, labels = _case(7, (2, 4, 5, 6), ignored)
    logits.requires_grad_()
    hard_pixel_loss(logits, labels, 0.25).backward()
    _, chosen = _literal(logits.detach(), labels, 0.25)
    expected = torch.zeros_like(logits)
    for i, y, x in chosen:
        expected[i, :, y, x] = logits[i, :, y, x].detach().softmax(0)
        expected[i, labels[i, y, x], y, x] -= 1
    assert 0 < len(chosen) <= 15
    torch.testing.assert_close(logits.grad, expected / len(chosen))


def test_counts_all_pixels_of_the_batch_not_the_valid_ones_or_those_of_one_image():
    logits = torch.zeros(2, 2, 1, 5)
    logits[0, 1, 0] = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])  # image 0 is hard, image 1 is easy
    labels = torch.zeros(2, 1, 5, dtype=torch.int64)
    labels[1, 0, 1:] = IGNORE_INDEX  # 6 valid pixels of 10
    expected = F.softplus(torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])).mean()  # half of 10 pixels = 5, all of image 0
    torch.testing.assert_close(hard_pixel_loss(logits, labels, 0.5), expected)


def test_fraction_one_is_plain_cross_entropy():
    logits, labels = _case(3, (2, 3, 8, 8), 0.2)
    torch.testing.assert_close(hard_pixel_loss(logits, labels, 1.0), F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX))


@pytest.mark.parametrize("fraction", [0.2, 1.0])
def test_nothing_but_ignored_pixels_gives_zero_and_no_gradient(fraction):
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = hard_pixel_loss(logits, torch.full((2, 4, 4), IGNORE_INDEX), fraction)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_half_precision_logits_are_summed_in_float32():
    logits, labels = _case(5, (2, 3, 16, 16), 0.1)
    loss = hard_pixel_loss(logits.half(), labels, 0.2)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, hard_pixel_loss(logits.half().float(), labels, 0.2))


def test_is_a_loss_of_mmsegmentation():
    loss = MODELS.build({"type": "HardPixelLoss", "fraction": 0.3})
    assert isinstance(loss, HardPixelLoss)
    assert loss.loss_name.startswith("loss_")  # else MMEngine logs it without learning from it
    logits, labels = _case(9, (1, 3, 4, 4), 0.2)
    labels[labels == IGNORE_INDEX] = 255
    expected, _ = _literal(logits, torch.where(labels == 255, IGNORE_INDEX, labels), 0.3)
    assert float(loss(logits, labels, weight=None, ignore_index=255)) == pytest.approx(expected, rel=1e-4)
