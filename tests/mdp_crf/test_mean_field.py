"""Mean-field against a literal one with all N² pairs."""

import numpy as np
import pytest

from mdp_crf.mean_field import bilateral, gaussian, mean_field


def dense_kernel(features):
    """Returns the symmetrically normalised Gaussian kernel of (N, d) features, float64."""
    kernel = np.exp(-0.5 * ((features[:, None, :] - features[None, :, :]) ** 2).sum(2))
    scale = 1 / np.sqrt(kernel.sum(1))
    return scale[:, None] * kernel * scale


def literal(unary, kernels, iterations):
    """Krähenbühl and Koltun, algorithm 1, pixel by pixel and label by label, with messages from every pixel."""
    count, labels = unary.shape
    marginals = np.exp(-unary) / np.exp(-unary).sum(1, keepdims=True)
    for _ in range(iterations):
        scores = -unary.astype(np.float64)
        for i in range(count):
            for label in range(labels):
                scores[i, label] += sum(weight * (kernel[i] * marginals[:, label]).sum() for weight, kernel in kernels)
        scores -= scores.max(1, keepdims=True)
        marginals = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    return marginals


def positions(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y], 2).reshape(-1, 2).astype(np.float64)


def scene(seed, height=14, width=17, labels=3):
    """A picture of smooth stripes of three colours, and unaries that are mostly right."""
    random = np.random.default_rng(seed)
    truth = np.repeat(np.arange(width)[None] * labels // width, height, 0)
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])[truth]
    pixels = np.clip(colours + random.normal(0, 3, colours.shape), 0, 255).astype(np.uint8)
    logits = np.eye(labels)[truth] * 1.5 + random.normal(0, 1, (height, width, labels))
    unary = -np.log(np.exp(logits) / np.exp(logits).sum(2, keepdims=True)).reshape(-1, labels).astype(np.float32)
    return pixels, unary, truth.ravel()


@pytest.mark.parametrize("labels", [2, 3])
def test_the_last_labels_message_follows_from_the_others(labels):
    """With the same exact kernels, updates are the literal ones."""
    random = np.random.default_rng(labels)
    unary = random.random((60, labels)).astype(np.float32) * 3
    exact = [dense_kernel(random.normal(size=(60, 2))), dense_kernel(random.normal(size=(60, 5)))]
    kernels = [lambda v, k=k, w=w: (w * k @ v).astype(np.float32) for k, w in zip(exact, (3, 4), strict=True)]
    expected = literal(unary, list(zip((3, 4), exact, strict=True)), 5)
    np.testing.assert_allclose(mean_field(unary, kernels, 5), expected, atol=1e-4)


@pytest.mark.parametrize("sxy", [0.5, 1.0, 3.0])
def test_the_smoothness_kernel_is_exact(sxy):
    """Up to the ends of the Gaussian, cut at four standard deviations."""
    _, unary, _ = scene(0)
    expected = literal(unary, [(3, dense_kernel(positions(14, 17) / sxy))], 5)
    np.testing.assert_allclose(mean_field(unary, [gaussian(14, 17, 3, sxy)], 5), expected, atol=1e-3)


@pytest.mark.parametrize(("iterations", "mean"), [(1, 0.02), (10, 0.002)])
@pytest.mark.parametrize("seed", range(3))
def test_both_kernels_agree_with_all_pairs_up_to_the_lattices_error(seed, iterations, mean):
    """The lattice approximates a Gaussian: after one update marginals differ a little, at the end hardly, and no label does."""
    pixels, unary, truth = scene(seed)
    features = np.concatenate([positions(14, 17) / 8, pixels.reshape(-1, 3) / 13.0], 1)
    expected = literal(unary, [(3, dense_kernel(positions(14, 17))), (4, dense_kernel(features))], iterations)
    found = mean_field(unary, [gaussian(14, 17, 3, 1), bilateral(pixels, 4, 8, 13)], iterations)
    assert np.abs(found - expected).mean() < mean
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.99
    assert (found.argmax(1) == truth).mean() > (unary.argmin(1) == truth).mean() + 0.1


def test_marginals_sum_to_one_and_no_iteration_is_the_softmax():
    pixels, unary, _ = scene(4)
    kernels = [gaussian(14, 17, 3, 1), bilateral(pixels, 4, 67, 3)]
    np.testing.assert_allclose(mean_field(unary, kernels, 10).sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(mean_field(unary, kernels, 0), np.exp(-unary), atol=1e-5)


def test_pixels_without_an_opinion_stay_without():
    pixels, unary, _ = scene(5)
    kernels = [gaussian(14, 17, 3, 1), bilateral(pixels, 4, 67, 3)]
    flat = np.full_like(unary, np.log(3))
    np.testing.assert_allclose(mean_field(flat, kernels, 1), 1 / 3, atol=1e-3)


def test_the_order_of_colour_channels_hardly_matters():
    pixels, unary, _ = scene(6)
    one = mean_field(unary, [bilateral(pixels, 4, 8, 13)], 10)
    other = mean_field(unary, [bilateral(np.ascontiguousarray(pixels[..., ::-1]), 4, 8, 13)], 10)
    assert (one.argmax(1) == other.argmax(1)).mean() > 0.98
