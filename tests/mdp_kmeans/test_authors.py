"""kmeans with the authors' settings against plain calls of what their program calls, and a literal view of its crops."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.cluster.vq import whiten
from sklearn.cluster import MiniBatchKMeans

from mdp_backbones.preprocess import IMAGENET
from mdp_backbones.random_vit import random_vit
from mdp_core.api import Context, ImageRecord, Images, Instances
from mdp_kmeans.clusterer import Kmeans
from mdp_kmeans.settings import EmbedConfig, KmeansConfig
from mdp_kmeans.state import Scaling

VIEW = {"view": "crop", "size": "native", "padding": "zeros", "positions": "scale-factor", "box": "stored"}
SEED = 1234


def embeddings(count: int, seed: int, dim: int = 32) -> np.ndarray:
    """Twelve blobs whose dimensions have very different means and deviations."""
    random = np.random.default_rng(seed)
    middle = np.random.default_rng(99).normal(size=(12, dim))
    points = middle[random.integers(0, 12, count)] + random.normal(size=(count, dim)) * 0.8
    return (points * np.geomspace(0.1, 10, dim) + np.linspace(-3, 3, dim)).astype(np.float32)


@pytest.mark.parametrize("restarts", [1, 3])
def test_clusters_equal_plain_scikit_learn_on_the_union_of_main_and_support_set(tmp_path, restarts):
    main, support = embeddings(2500, 0), embeddings(1500, 1)
    union = np.concatenate([main, support])
    config = KmeansConfig(
        clusters=20, normalise="standardise-l2", backend="sklearn-minibatch", restarts=restarts, iterations=100
    )
    assert Kmeans(config, Context(seed=SEED)).fit(union, tmp_path) == 20
    labels = Kmeans(config, Context()).assign(tmp_path, union)  # all that assigning needs is stored
    plain = MiniBatchKMeans(n_clusters=20, batch_size=1000, random_state=SEED, n_init=restarts)
    assert plain.max_iter == config.iterations
    assert labels.tolist() == plain.fit_predict(Scaling.fit(union, "standardise-l2").apply(union)).tolist()
    features = whiten(union)
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert (labels != plain.fit_predict(features)).sum() <= 4  # scipy's deviations are rounded to float32 in another way
    alone = Kmeans(config, Context()).assign(tmp_path, main)
    assert alone.tolist() == labels[: len(main)].tolist()


def test_scipy_whitens_as_standardise_does():
    points = embeddings(500, 3)
    np.testing.assert_allclose(Scaling.fit(points, "standardise").apply(points), whiten(points), rtol=1e-5)


def scenes() -> tuple[Images, list[Instances], list[np.ndarray]]:
    random = np.random.default_rng(0)
    arrays = []
    for height, width in ((45, 60), (60, 45), (45, 60), (33, 33)):
        small = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        arrays.append(np.asarray(small.resize((width, height), Image.BICUBIC)))
    boxes = [[(3, 5, 30, 41)], [(0, 0, 45, 60), (7, 9, 10, 11)], [(3, 5, 30, 41), (2, 2, 26, 18)], [(8, 1, 9, 33)]]
    instances = []
    for array, own in zip(arrays, boxes, strict=True):
        masks = np.zeros((len(own), *array.shape[:2]), bool)
        for mask, (x0, y0, x1, y1) in zip(masks, own, strict=True):
            mask[y0:y1, x0:x1] = True
            mask[y0 : y0 + (y1 - y0) // 2, x0 : x0 + 2] = False  # the rest of the box is seen all the same
        instances.append(Instances.from_masks(masks, boxes=np.array(own)))
    records = [ImageRecord(str(i), *array.shape[:2]) for i, array in enumerate(arrays)]
    return Images(records, lambda record: arrays[int(record.id)]), instances, arrays


def cubic(t: float, a: float = -0.75) -> float:
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def taps(new: int, old: int = 16) -> np.ndarray:
    matrix = np.zeros((new, old))
    for i in range(new):
        at = (i + 0.5) / ((new + 0.1) / old) - 0.5
        for tap in range(math.floor(at) - 1, math.floor(at) + 3):
            matrix[i, min(max(tap, 0), old - 1)] += cubic(at - tap)
    return matrix


def literal_embedding(array: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The normalised image is cut at its own resolution, padded with zeros to patches, and CLS is read after the final norm."""
    image = (array / 255 - np.array(IMAGENET.mean)) / np.array(IMAGENET.std)
    x0, y0, x1, y1 = (int(value) for value in box)
    crop = image[y0:y1, x0:x1]
    rows, columns = -(-crop.shape[0] // 8), -(-crop.shape[1] // 8)
    padded = np.zeros((8 * rows, 8 * columns, 3))
    padded[: crop.shape[0], : crop.shape[1]] = crop
    model = random_vit().eval().double()
    grid = model.pos_embed[0, 1:].detach().numpy().reshape(16, 16, -1)
    positions = np.einsum("ri,cj,ijd->rcd", taps(rows), taps(columns), grid).reshape(rows * columns, -1)
    with torch.no_grad():
        patches = model.patch_embed(torch.from_numpy(padded.transpose(2, 0, 1)[None])).flatten(1, 2)
        tokens = torch.cat([model.cls_token + model.pos_embed[:, :1], patches + torch.from_numpy(positions)], dim=1)
        return model.norm(model.blocks(tokens))[0, 0].numpy()


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_crops_are_embedded_as_the_authors_do(batch):
    images, instances, arrays = scenes()
    stage = Kmeans(KmeansConfig(embed=EmbedConfig(weights="builtin:random", batch=batch, **VIEW)), Context())
    for array, one, rows in zip(arrays, instances, stage.embed(images, instances), strict=True):
        assert rows.shape == (len(one), 192)
        for box, row in zip(one.boxes, rows, strict=True):
            np.testing.assert_allclose(row, literal_embedding(array, box), rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("setting", ["view", "size", "padding", "positions", "box"])
def test_each_of_these_settings_matters(setting):
    images, instances, _ = scenes()
    moved = [Instances.from_masks(one.to_masks(), boxes=one.boxes - np.array([0, 0, 2, 2])) for one in instances]
    default = EmbedConfig()
    made = [
        np.concatenate(
            list(Kmeans(KmeansConfig(embed=EmbedConfig(weights="builtin:random", **own)), Context()).embed(images, moved))
        )
        for own in (VIEW, {**VIEW, setting: getattr(default, setting)})
    ]
    assert np.abs(made[0] - made[1]).max() > 1e-4
