"""Embedding rows, fitting, assigning."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from sklearn.cluster import KMeans
from torch import nn

from mdp_backbones.preprocess import IMAGENET, to_input
from mdp_backbones.random_vit import random_vit
from mdp_core.api import Context, ImageRecord, Images, Instances, Silence, StageError
from mdp_kmeans.clusterer import Kmeans
from mdp_kmeans.lloyd import fit_centroids, nearest
from mdp_kmeans.settings import EmbedConfig, KmeansConfig
from mdp_kmeans.state import Scaling
from mdp_kmeans.views import view_of

BACKENDS = ["faiss", "sklearn-minibatch"]
NORMALISE = ["standardise-l2", "zscore-l2", "l2", "standardise", "none"]


class Heard(Silence):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.notes: dict[str, str] = {}

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def note(self, name: str, value: str) -> None:
        self.notes[name] = value


def blobs(count: int = 400, dim: int = 8, centres: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    middle = random.normal(size=(centres, dim)) * 4
    labels = random.integers(0, centres, count)
    return (middle[labels] + random.normal(size=(count, dim))).astype(np.float32), labels


def kmeans(listener: Silence | None = None, seed: int = 1, **settings) -> Kmeans:
    return Kmeans(KmeansConfig(**{"clusters": 6, **settings}), Context(seed=seed, listener=listener or Silence()))


@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.integers(1, 9), st.integers(1, 7))
@settings(deadline=None)
def test_nearest_equals_brute_force(seed, count, clusters, dim):
    random = np.random.default_rng(seed)
    points = random.normal(size=(count + 1, dim)).astype(np.float32)
    centroids = random.normal(size=(clusters, dim)).astype(np.float32)
    labels, distances = nearest(points, centroids)
    for point, label, distance in zip(points, labels, distances, strict=True):
        squared = [sum((float(a) - float(b)) ** 2 for a, b in zip(point, centroid, strict=True)) for centroid in centroids]
        assert squared[label] == pytest.approx(min(squared), abs=1e-9)
        assert distance == pytest.approx(min(squared), abs=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(3))
def test_objective_is_not_worse_than_lloyd_of_sklearn(backend, seed):
    points, _ = blobs(seed=seed)
    centroids = fit_centroids(points, KmeansConfig(clusters=6, backend=backend), seed)
    reference = KMeans(6, n_init=10, random_state=0).fit(points).inertia_
    tolerance = 1.001 if backend == "faiss" else 1.03
    assert nearest(points, centroids)[1].sum() <= reference * tolerance


def test_faiss_uses_all_points():
    """Far more than 256 points a centroid: with faiss's default sample the mean would be off."""
    points = np.random.default_rng(0).normal(size=(3000, 4)).astype(np.float32)
    centroids = fit_centroids(points, KmeansConfig(clusters=1), 0)
    np.testing.assert_allclose(centroids[0], points.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_blobs_are_found_again_and_the_same_seed_gives_the_same_state(tmp_path, backend):
    points, truth = blobs()
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        stage = kmeans(backend=backend, normalise="none")
        assert stage.fit(points, tmp_path / name) == 6
        found.append(stage.assign(tmp_path / name, points))
    assert (tmp_path / "a/kmeans.safetensors").read_bytes() == (tmp_path / "b/kmeans.safetensors").read_bytes()
    assert found[0].dtype == np.int32
    assert (found[0] == found[1]).all()
    pairs = set(zip(found[0].tolist(), truth.tolist(), strict=True))
    assert len(pairs) == 6  # one to one


@pytest.mark.parametrize("normalise", NORMALISE)
def test_assigning_equals_a_literal_loop(tmp_path, normalise):
    points, _ = blobs()
    heard = Heard()
    stage = kmeans(heard, normalise=normalise)
    clusters = stage.fit(points, tmp_path)
    centroids = load_file(tmp_path / "kmeans.safetensors")["centroids"]
    mean, std = points.astype(np.float64).mean(axis=0), points.astype(np.float64).std(axis=0)
    fresh, _ = blobs(seed=9)
    labels, objective = stage.assign(tmp_path, fresh), 0.0
    for array, check in ((fresh, labels), (points, None)):
        for row, point in enumerate(array.astype(np.float64)):
            scaled = point - mean if normalise.startswith("zscore") else point
            scaled = scaled / std if normalise.startswith(("standardise", "zscore")) else scaled
            scaled = scaled / np.sqrt((scaled**2).sum()) if normalise.endswith("l2") else scaled
            squared = ((centroids - scaled) ** 2).sum(axis=1)
            if check is None:
                objective += squared.min()
            else:
                assert squared[check[row]] == pytest.approx(squared.min(), rel=1e-5)
    facts = json.loads((tmp_path / "kmeans.json").read_text())
    assert facts["objective"] == pytest.approx(objective, rel=1e-4)
    assert facts["clusters"] == clusters == 6
    assert facts["masks"] == len(points)
    assert "k-means objective" in heard.notes


def test_scaling_of_constant_dimensions_and_zero_vectors():
    points = np.array([[0, 0, 1], [0, 0, -1], [0, 0, 3]], np.float32)
    scaling = Scaling.fit(points, "standardise-l2")
    assert scaling.std[:2].tolist() == [1, 1]
    assert scaling.apply(points).tolist() == [[0, 0, 1], [0, 0, -1], [0, 0, 1]]
    assert not scaling.apply(np.zeros((1, 3), np.float32)).any()


def test_constant_dimension_whose_mean_is_inexact_is_left_as_it_is():
    points = np.full((1001, 1), 0.1, np.float32)
    assert Scaling.fit(points, "standardise").std.tolist() == [1]


def test_fewer_masks_than_clusters(tmp_path):
    points, _ = blobs(count=5)
    with pytest.raises(StageError, match="5 masks cannot make 6 clusters") as caught:
        kmeans().fit(points, tmp_path)
    assert "clusters: to at most 5" in caught.value.hint


def test_embeddings_that_are_not_finite(tmp_path):
    points, _ = blobs()
    points[3, 2] = np.nan
    with pytest.raises(StageError, match="1 of 400 embeddings"):
        kmeans().fit(points, tmp_path)


@pytest.mark.parametrize("backend", BACKENDS)
def test_clusters_without_a_mask_are_dropped(tmp_path, backend):
    points = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    heard = Heard()
    stage = kmeans(heard, backend=backend)
    assert stage.fit(points, tmp_path) == 3
    assert set(stage.assign(tmp_path, points).tolist()) == {0, 1, 2}
    assert "3 of 6 clusters have no mask" in heard.warnings[0]
    assert stage.assign(tmp_path, np.zeros((0, 3), np.float32)).shape == (0,)


def scenes() -> tuple[Images, list[Instances], list[np.ndarray]]:
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, size, dtype=np.uint8) for size in ((30, 40, 3), (50, 20, 3), (32, 32, 3), (24, 64, 3))]
    instances = []
    for array, count in zip(arrays, (0, 1, 3, 2), strict=True):
        masks = np.zeros((count, *array.shape[:2]), bool)
        for mask in masks:
            y, x = random.integers(0, 10, 2)
            mask[y : y + 12, x : x + 9] = True
        instances.append(Instances.from_masks(masks))
    records = [ImageRecord(str(i), *array.shape[:2]) for i, array in enumerate(arrays)]
    return Images(records, lambda record: arrays[int(record.id)]), instances, arrays


@pytest.mark.parametrize("view", ["masked-crop", "crop", "masked-image"])
@pytest.mark.parametrize("batch", [1, 4, 32])
def test_row_j_of_image_i_is_the_cls_token_of_its_view(view, batch):
    images, instances, arrays = scenes()
    embed = EmbedConfig(weights="builtin:random", view=view, size=36, batch=batch)  # 36: not a multiple of the patch
    rows = list(kmeans(embed=embed).embed(images, instances))
    assert [row.shape for row in rows] == [(0, 192), (1, 192), (3, 192), (2, 192)]
    model = random_vit().eval()
    for array, one, row in zip(arrays, instances, rows, strict=True):
        assert row.dtype == np.float32
        for index in range(len(one)):
            square = np.pad(view_of(array, one.mask(index), embed, IMAGENET.mean_pixel), ((0, 4), (0, 4), (0, 0)), mode="edge")
            positions = model.pos_embed[:, 1:].unflatten(1, (16, 16)).permute(0, 3, 1, 2)
            positions = torch.nn.functional.interpolate(positions, size=(5, 5), mode="bicubic").flatten(2).transpose(1, 2)
            patches = model.patch_embed(to_input([square], torch.device("cpu"))).flatten(1, 2) + positions
            tokens = torch.cat([model.cls_token + model.pos_embed[:, :1], patches], dim=1)
            with torch.no_grad():
                wanted = model.norm(model.blocks(tokens))[0, 0].numpy()
            np.testing.assert_allclose(row[index], wanted, rtol=1e-4, atol=1e-5)
    assert not np.allclose(rows[2][0], rows[2][1])


def swav_resnet18(path: Path) -> nn.Module:
    """Writes a checkpoint in SwAV's layout, whose normalisation is not quite ImageNet's; returns torchvision's network of it."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    model.fc = nn.Identity()
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({**state, "module.prototypes.weight": torch.ones(3, 8)}, path)
    return model


@pytest.mark.parametrize("batch", [1, 4])
def test_a_resnet_embeds_views_of_any_size(tmp_path, batch):
    model = swav_resnet18(tmp_path / "swav.pth")
    images, instances, arrays = scenes()
    embed = EmbedConfig(weights=f"file:{tmp_path / 'swav.pth'}", arch="resnet18", size=37, batch=batch)
    rows = list(kmeans(embed=embed).embed(images, instances))
    assert [row.shape for row in rows] == [(0, 512), (1, 512), (3, 512), (2, 512)]
    for array, one, row in zip(arrays, instances, rows, strict=True):
        for index in range(len(one)):
            view = view_of(array, one.mask(index), embed, np.array([124, 116, 104], np.uint8)).astype(np.float64) / 255
            pixels = (view - [0.485, 0.456, 0.406]) / [0.228, 0.224, 0.225]
            with torch.no_grad():
                wanted = model(torch.from_numpy(pixels).float().permute(2, 0, 1)[None])[0].numpy()
            np.testing.assert_allclose(row[index], wanted, rtol=1e-4, atol=1e-5)


def test_a_resnet_clusters_objects_of_two_kinds_end_to_end(tmp_path):
    """Bright red and dark blue discs: even random filters tell them apart."""
    swav_resnet18(tmp_path / "swav.pth")
    random = np.random.default_rng(0)
    arrays, masks, kinds = [], [], []
    for index in range(8):
        array = random.integers(90, 110, (48, 48, 3), dtype=np.uint8)
        y, x = np.ogrid[:48, :48]
        discs = np.stack([(y - cy) ** 2 + (x - cx) ** 2 < 81 for cy, cx in random.integers(10, 38, (2, 2))])
        for kind, disc in enumerate(discs):
            array[disc] = (250, 60, 40) if (kind + index) % 2 else (10, 20, 120)
            kinds.append((kind + index) % 2)
        arrays.append(array)
        masks.append(Instances.from_masks(discs & (np.arange(2)[:, None, None] == np.where(discs[1], 1, 0))))
    images = Images([ImageRecord(str(i), 48, 48) for i in range(8)], lambda record: arrays[int(record.id)])
    embed = {"weights": f"file:{tmp_path / 'swav.pth'}", "arch": "resnet18", "size": 64}
    heard = Heard()
    stage = kmeans(heard, embed=embed, clusters=2, normalise="zscore-l2")
    embeddings = np.concatenate(list(stage.embed(images, masks)))
    assert stage.fit(embeddings, tmp_path) == 2
    labels = stage.assign(tmp_path, embeddings)
    assert len(set(zip(labels.tolist(), kinds, strict=True))) == 2
    assert "sha256:" in heard.notes["weights"]


def test_half_precision_changes_embeddings_a_little():
    images, instances, _ = scenes()
    exact, half = (
        np.concatenate(
            list(kmeans(embed={"weights": "builtin:random", "size": 32, "precision": precision}).embed(images, instances))
        )
        for precision in ("fp32", "bf16")
    )
    assert half.dtype == np.float32
    assert 0 < np.abs(half - exact).max() < 0.1


def test_states_stored_before_there_was_a_mean_are_read(tmp_path):
    points, _ = blobs()
    stage = kmeans()
    stage.fit(points, tmp_path)
    before = stage.assign(tmp_path, points)
    arrays = load_file(tmp_path / "kmeans.safetensors")
    assert not arrays.pop("mean").any()
    save_file(arrays, tmp_path / "kmeans.safetensors")
    assert (stage.assign(tmp_path, points) == before).all()


def test_no_images_at_all():
    images = Images([], lambda _record: pytest.fail("nothing to read"))
    assert list(kmeans(embed=EmbedConfig(weights="builtin:random")).embed(images, [])) == []
