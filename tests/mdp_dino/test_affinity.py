"""dino-affinity against the paper's equations, transcribed with N × N matrices."""

import os
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from mdp_core.api import Context, ImageRecord, Images, Silence, read_image
from mdp_dino.affinity import DinoAffinity, component_of, object_patches, to_pixels
from mdp_dino.settings import DinoAffinityConfig


def literal_mask(q_cls: np.ndarray, k: np.ndarray, topk: float, centre: bool) -> tuple[np.ndarray, int, float]:
    """§3.2 as printed: q_cls (heads, d), k (heads, N, d) in float64.

    Returns M_s (N,), s, and the smallest distance of any decision to its tie (relative to the size of the terms).
    """
    heads, patches = k.shape[:2]
    if centre:
        k = k - k.mean(axis=1, keepdims=True)
    a_cls = np.zeros(patches)
    a = np.zeros((patches, patches))
    for h in range(heads):
        a_cls += q_cls[h] @ k[h].T / heads
        a += k[h] @ k[h].T / heads
    ranking = sorted(range(patches), key=lambda j: -a_cls[j])
    count = max(1, int(topk * patches))
    s = ranking[0]
    chosen = ranking[:count]
    kept = [j for j in chosen if a[s, j] > 0]
    total = np.zeros(patches)
    for j in range(patches):
        for i in kept:
            total[j] += a[i, j]
    ordered = a_cls[ranking]
    gaps = [abs(a[s, chosen]).min(), abs(total).min() / max(len(kept), 1)]
    gaps += [ordered[0] - ordered[1]] if patches > 1 else []
    gaps += [ordered[count - 1] - ordered[count]] if count < patches else []
    return total > 0, s, min(gaps)


def literal_component(mask: np.ndarray, source: tuple[int, int]) -> np.ndarray:
    """Flood fill over the four neighbours."""
    found = np.zeros_like(mask)
    queue = deque([source] if mask[source] else [])
    while queue:
        y, x = queue.popleft()
        if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and not found[y, x]:
            found[y, x] = True
            queue += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    return found


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    heads=st.integers(1, 4),
    dim=st.integers(1, 12),
    grid_size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    topk=st.floats(0.05, 1.0),
    centre=st.booleans(),
    shift=st.floats(-1, 1),
)
def test_equals_the_paper_with_full_matrices(*, seed, heads, dim, grid_size, topk, centre, shift):
    rows, columns = grid_size
    random = np.random.default_rng(seed)
    patches = rows * columns
    q, k = random.normal(size=(heads, dim)), random.normal(size=(heads, patches, dim)) + shift
    wanted, source, gap = literal_mask(q, k, topk, centre)
    assume(gap > 1e-9)  # exact ties may go either way
    keys, query = torch.from_numpy(k).permute(1, 0, 2).flatten(1), torch.from_numpy(q).flatten()
    mask, found = object_patches(keys, query, topk=topk, centre_keys=centre)
    assert found == source
    assert mask.numpy().tolist() == wanted.tolist()
    assert mask[source]
    at = divmod(source, columns)
    grid = mask.numpy().reshape(rows, columns)
    assert component_of(grid, at).tolist() == literal_component(grid, at).tolist()


def test_component_of_a_source_that_is_not_set_is_empty():
    mask = np.array([[True, False], [False, True]])
    assert not component_of(mask, (0, 1)).any()
    assert component_of(mask, (1, 1)).tolist() == [[False, False], [False, True]]


@given(st.tuples(*[st.integers(1, 50)] * 2), st.tuples(*[st.integers(1, 40)] * 2), st.integers(1, 9), st.integers(0, 99))
def test_upsampling_equals_the_three_steps_in_turn(size, resized, patch, seed):
    (height, width), (tall, wide) = size, resized
    grid = np.random.default_rng(seed).random((-(-tall // patch), -(-wide // patch))) < 0.5
    repeated = grid.repeat(patch, axis=0).repeat(patch, axis=1)[:tall, :wide]  # nearest, then crop the padding
    wanted = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            wanted[y, x] = repeated[(2 * y + 1) * tall // (2 * height), (2 * x + 1) * wide // (2 * width)]
    assert to_pixels(grid, patch, (tall, wide), (height, width)).tolist() == wanted.tolist()


class Heard(Silence):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.notes: dict[str, str] = {}

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def note(self, name: str, value: str) -> None:
        self.notes[name] = value


def images_of(arrays: list[np.ndarray]) -> Images:
    records = [ImageRecord(str(i), *array.shape[:2]) for i, array in enumerate(arrays)]
    return Images(records, lambda record: arrays[int(record.id)])


def blobs(height: int, width: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), random.integers(60, 120, 3), np.uint8)
    y, x = int(random.integers(0, height // 2)), int(random.integers(0, width // 2))
    pixels[y : y + height // 3, x : x + width // 3] = random.integers(140, 255, 3)
    return np.clip(pixels + random.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)


def mine(images: Images, listener: Heard | None = None, **settings):
    config = DinoAffinityConfig(**{"weights": "builtin:random", "short_side": 96, "centre_keys": True, **settings})
    return list(DinoAffinity(config, Context(listener=listener or Heard())).mine(images))


def literal_mine(pixels: np.ndarray, short_side: int, component: str, centre: bool) -> tuple[np.ndarray, float]:
    """One image through the whole network with hooks, then the paper's matrices, then pixels one by one."""
    from mdp_vit.random_vit import random_vit

    height, width = pixels.shape[:2]
    factor = short_side / min(height, width)
    size = [
        short_side if side == min(height, width) else int(short_side * side / min(height, width)) for side in (height, width)
    ]
    assert max(size) <= factor * max(height, width)
    small = np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.BILINEAR))
    padded = np.pad(small, ((0, -size[0] % 8), (0, -size[1] % 8), (0, 0)), mode="edge")
    model = random_vit().eval()
    rows, columns = padded.shape[0] // 8, padded.shape[1] // 8
    positions = model.pos_embed[:, 1:].reshape(1, 16, 16, -1).permute(0, 3, 1, 2)
    positions = torch.nn.functional.interpolate(positions, size=(rows, columns), mode="bicubic", align_corners=False)
    model.pos_embed.data = torch.cat([model.pos_embed[:, :1], positions.flatten(2).transpose(1, 2)], dim=1)
    model.dynamic_img_size = False
    model.patch_embed.flatten, model.patch_embed.output_fmt = True, "NCHW"
    caught = {}
    model.blocks[-1].attn.qkv.register_forward_hook(lambda _m, _i, out: caught.update(qkv=out))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    tensor = torch.from_numpy(((padded / 255 - mean) / std).transpose(2, 0, 1)[None]).float()
    with torch.no_grad():
        model(tensor)
    q, k, _ = caught["qkv"][0].reshape(-1, 3, 3, 64).permute(1, 2, 0, 3).double().numpy()
    mask, source, gap = literal_mask(q[:, 0], k[:, 1:], 0.4, centre)
    grid = mask.reshape(rows, columns)
    if component == "source":
        grid = literal_component(grid, divmod(source, columns))
    out = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            out[y, x] = grid[int((y + 0.5) * size[0] / height) // 8, int((x + 0.5) * size[1] / width) // 8]
    return out, gap


def photographs(count: int) -> list[np.ndarray]:
    root = os.environ.get("VOC_ROOT")
    if not root or not Path(root).is_dir():
        pytest.skip("VOC_ROOT is not set")
    paths = sorted(Path(root).rglob("JPEGImages/*.jpg"))[:count]
    if len(paths) < count:
        pytest.skip("VOC_ROOT holds too few photographs")
    return [read_image(path) for path in paths]


@pytest.mark.parametrize("component", ["source", "all"])
@pytest.mark.parametrize("centre", [False, True])
def test_photographs_equal_the_literal_method(component, centre):
    arrays = photographs(10)
    mined = mine(images_of(arrays), component=component, centre_keys=centre, short_side=128)
    for pixels, found in zip(arrays, mined, strict=True):
        wanted, gap = literal_mine(pixels, 128, component, centre)
        assert gap > 1e-5  # no decision is a near tie, so float32 and float64 agree
        assert (found.to_masks().any(axis=0) == wanted).all()


def test_drawn_scenes_equal_the_literal_method():
    arrays = [blobs(70, 110, seed) for seed in range(4)] + [blobs(111, 64, 4)]
    for pixels, found in zip(arrays, mine(images_of(arrays)), strict=True):
        wanted, _gap = literal_mine(pixels, 96, "source", True)
        assert (found.mask(0) == wanted).all()
        assert found.scores.tolist() == [1.0]
        assert found.labels.tolist() == [-1]


def test_neither_batch_size_nor_company_matters():
    arrays = [blobs(*((64, 96), (96, 64), (64, 80))[seed % 3], seed) for seed in range(11)]
    alone = [mine(images_of([array]), batch=1)[0] for array in arrays]
    for batch in (1, 3, 8):
        together = mine(images_of(arrays), batch=batch)
        assert [one.masks for one in together] == [one.masks for one in alone]
        assert [one.size for one in together] == [array.shape[:2] for array in arrays]


def test_whole_image_is_kept_and_warned_about_once():
    heard = Heard()
    plain = [np.full((64, 64, 3), 60 * seed, np.uint8) for seed in range(1, 4)]
    mined = mine(images_of(plain), heard, centre_keys=False)
    assert all(one.mask(0).all() for one in mined)
    assert len(heard.warnings) == 1
    assert "centre_keys: true" in heard.warnings[0]
    assert "builtin:random (untrained) sha256:" in heard.notes["weights"]


def test_images_smaller_than_a_patch_and_empty_lists():
    mined = mine(images_of([np.full((3, 40, 3), 9, np.uint8)]), short_side=16)
    assert mined[0].size == (3, 40)
    assert mine(images_of([])) == []


def test_zero_keys_give_no_mask():
    mask, source = object_patches(torch.zeros(6, 4), torch.ones(4), topk=0.5)
    assert not mask.any()
    assert source == 0


class LargestOutput(TorchDispatchMode):
    """Remembers the largest tensor that any operator made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_no_matrix_of_patches_by_patches_is_made():
    patches, dim = 20_000, 16
    generator = torch.Generator().manual_seed(0)
    keys, query = torch.randn(patches, dim, generator=generator), torch.randn(dim, generator=generator)
    with torch.no_grad(), LargestOutput() as largest:
        torch.ones(3, 5) @ torch.ones(5, 7)
    assert largest.elements == 35  # the instrument works
    with LargestOutput() as largest:
        object_patches.__wrapped__(keys, query, topk=0.4, centre_keys=True)
    assert 0 < largest.elements <= patches * dim


def test_network_makes_no_matrix_of_patches_by_patches():
    """Attention itself is torch's fused operator; beyond it nothing may grow with N²."""
    from mdp_vit.random_vit import random_vit
    from mdp_vit.vit import VitFeatures

    features = VitFeatures(random_vit().eval())
    patches = 64 * 64
    with torch.no_grad(), LargestOutput() as largest:
        features.last_block.__wrapped__(features, torch.zeros(1, 3, 512, 512))
    assert 0 < largest.elements < 3 * patches**2 / 4  # the MLP's hidden layer: N · 768
