"""dino-affinity with the authors' switches against their program, transcribed step by step from a description of it.

Everything is float64 and literal: attention and affinities are N × N matrices, heads are loops, positions are resampled tap by tap.
"""

import math
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from skimage.measure import approximate_polygon, find_contours
from timm.models.vision_transformer import VisionTransformer

from mdp_backbones.checkpoint import Card, save_backbone
from mdp_backbones.preprocess import IMAGENET, resize, to_input
from mdp_core.api import Context, ImageRecord, Images, Instances, StageError
from mdp_dino.affinity import DinoAffinity, object_patches
from mdp_dino.settings.affinity import DinoAffinityConfig

AUTHORS = {
    "heads": 5,
    "cls_mass": 0.5,
    "padding": "zeros",
    "positions": "scale-factor",
    "upsample": "bicubic-any",
    "outline": "polygon",
    "component": "source",
}
PAPER = {
    "heads": "all",
    "cls_mass": None,
    "padding": "edge",
    "positions": "size",
    "upsample": "nearest",
    "outline": "exact",
    "component": "all",
}
SHAPE = {"img_size": 56, "patch_size": 8, "embed_dim": 96, "depth": 3, "num_heads": 6}
PATCH, HEADS, DEPTH, SHORT = 8, 6, 3, 116  # 116 = 14.5 patches: both sides are padded


def images_of(arrays: list[np.ndarray]) -> Images:
    records = [ImageRecord(str(i), *array.shape[:2]) for i, array in enumerate(arrays)]
    return Images(records, lambda record: arrays[int(record.id)])


def network(offset: float, arrays: list[np.ndarray]) -> VisionTransformer:
    """Six heads, random; a bias makes its last keys point all ways over these pictures, and moves the mean of CLS logits."""
    torch.manual_seed(1)
    model = VisionTransformer(**SHAPE, num_classes=0, dynamic_img_size=True).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.08 * torch.randn_like(parameter)) if "norm" not in name else None
    return settled(model, offset, arrays)


@torch.no_grad()
def settled(model: VisionTransformer, offset: float, arrays: list[np.ndarray]) -> VisionTransformer:
    seen, squares = {}, [resize(pixels, 112, 112) for pixels in arrays]
    handle = model.blocks[-1].attn.qkv.register_forward_hook(lambda _m, _i, out: seen.update(qkv=out))
    model(to_input(squares, torch.device("cpu")))
    handle.remove()
    q, k, _ = seen["qkv"].chunk(3, dim=-1)
    bias = model.blocks[-1].attn.qkv.bias[96:192]
    query = q[:, 0].mean(dim=0)
    bias += offset * query / (query @ query) - k[:, 1:].mean(dim=(0, 1))
    return model


def stored(folder: Path, offset: float, arrays: list[np.ndarray]) -> tuple[str, dict[str, np.ndarray]]:
    model = network(offset, arrays)
    card = Card(arch="vit_small_patch16_224", arch_settings=SHAPE)
    save_backbone(folder / "six.safetensors", model.state_dict(), card, dtype=torch.float32)
    return f"file:{folder / 'six.safetensors'}", {n: v.double().numpy() for n, v in model.state_dict().items()}


def normed(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def cubic(t: float, a: float = -0.75) -> float:
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def resampling(old: int, new: int, factor: float) -> np.ndarray:
    """The matrix (new, old) of a bicubic resampling by ``factor``, borders repeated, align_corners False."""
    matrix = np.zeros((new, old))
    for i in range(new):
        at = (i + 0.5) / factor - 0.5
        for tap in range(math.floor(at) - 1, math.floor(at) + 3):
            matrix[i, min(max(tap, 0), old - 1)] += cubic(at - tap)
    return matrix


def positions(embedding: np.ndarray, rows: int, columns: int, rule: str) -> np.ndarray:
    offset = 0.1 if rule == "scale-factor" else 0.0
    down, across = (resampling(7, cells, (cells + offset) / 7) for cells in (rows, columns))
    grid = np.einsum("ri,cj,ijd->rcd", down, across, embedding[0, 1:].reshape(7, 7, -1))
    return np.concatenate([embedding[0, :1], grid.reshape(rows * columns, -1)])


def last_projections(pixels: np.ndarray, weights: dict[str, np.ndarray], padding: str, rule: str):
    """Steps 1 to 4: resize, normalise, pad, and the network with explicit attention. Returns q, k (heads, 1 + N, d), the grid and
    the size without padding."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    size = [SHORT if side == short else int(SHORT * side / short) for side in (height, width)]
    small = np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.BILINEAR)) / 255
    image = (small - np.array(IMAGENET.mean)) / np.array(IMAGENET.std)
    rows, columns = -(-size[0] // PATCH), -(-size[1] // PATCH)
    border = ((0, rows * PATCH - size[0]), (0, columns * PATCH - size[1]), (0, 0))
    image = np.pad(image, border) if padding == "zeros" else np.pad(image, border, mode="edge")
    kernel = weights["patch_embed.proj.weight"].reshape(96, -1)
    cut = image.reshape(rows, PATCH, columns, PATCH, 3).transpose(0, 2, 4, 1, 3).reshape(rows * columns, -1)
    tokens = np.concatenate([weights["cls_token"][0], cut @ kernel.T + weights["patch_embed.proj.bias"]])
    tokens = tokens + positions(weights["pos_embed"], rows, columns, rule)
    for index in range(DEPTH):
        name = f"blocks.{index}"
        qkv = linear(normed(tokens, weights, f"{name}.norm1"), weights, f"{name}.attn.qkv")
        q, k, v = qkv.reshape(len(tokens), 3, HEADS, -1).transpose(1, 2, 0, 3)
        if index == DEPTH - 1:
            return q, k, (rows, columns), size
        attended = []
        for h in range(HEADS):
            logits = q[h] @ k[h].T / np.sqrt(q.shape[-1])
            attention = np.exp(logits - logits.max(axis=1, keepdims=True))
            attended.append(attention / attention.sum(axis=1, keepdims=True) @ v[h])
        tokens = tokens + linear(np.concatenate(attended, axis=1), weights, f"{name}.attn.proj")
        hidden = torch.from_numpy(linear(normed(tokens, weights, f"{name}.norm2"), weights, f"{name}.mlp.fc1"))
        tokens = tokens + linear(torch.nn.functional.gelu(hidden).numpy(), weights, f"{name}.mlp.fc2")
    raise AssertionError


def affinity_mask(q_cls: np.ndarray, k: np.ndarray, heads: int, mass: float | None, topk: float = 0.4):
    """Steps 5 to 9: q_cls (heads, d), k (heads, N, d). Returns the mask (N,), the source, and how far the nearest decision was."""
    patches = k.shape[1]
    g_cls = np.mean([[q_cls[h] @ k[h, j] for j in range(patches)] for h in range(heads)], axis=0)
    gap = math.inf
    if mass is not None:
        total, running, kept = g_cls.sum(), 0.0, np.zeros(patches)
        for j in sorted(range(patches), key=lambda j: g_cls[j]):
            running += g_cls[j] / total
            kept[j] = float(running > 1 - mass)
            gap = min(gap, abs(running - (1 - mass)) * abs(total) / np.abs(g_cls).sum())
        g_cls = np.where(kept == 1, g_cls, 0.0)
    ranking = sorted(range(patches), key=lambda j: (-g_cls[j], j))
    count = int(topk * patches)
    source, chosen = ranking[0], ranking[:count]
    spread = np.abs(g_cls).mean()
    for before, after in ((0, 1), (count - 1, count)):
        difference = g_cls[ranking[before]] - g_cls[ranking[after]]
        gap = min(gap, difference / spread) if difference else gap  # exact ties are zeros of the gate: the lower index wins
    g_i = np.sum([k[h] @ k[h].T for h in range(len(k))], axis=0)
    similar = [j for j in chosen if g_i[source, j] > 0]
    total = np.sum([g_i[j] for j in similar], axis=0)
    gap = min(gap, *(np.abs(g_i[source, chosen]) / g_i[source, source]), *(np.abs(total) / np.abs(total).mean()))
    return total > 0, source, gap


def flooded(mask: np.ndarray, source: tuple[int, int]) -> np.ndarray:
    """Step 10: what four-neighbours reach from the source."""
    found, queue = np.zeros_like(mask), deque([source])
    while queue:
        y, x = queue.popleft()
        if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and not found[y, x]:
            found[y, x] = True
            queue += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    return found


def literal(pixels: np.ndarray, weights: dict[str, np.ndarray], switches: dict) -> tuple[np.ndarray, list[float], float]:
    """The whole program for one image: the mask, the box x0 y0 x1 y1, and how far the nearest decision was."""
    height, width = pixels.shape[:2]
    q, k, grid, size = last_projections(pixels, weights, switches["padding"], switches["positions"])
    heads = HEADS if switches["heads"] == "all" else switches["heads"]
    mask, source, gap = affinity_mask(q[:, 0], k[:, 1:], heads, switches["cls_mass"])
    mask = mask.reshape(grid)
    if switches["component"] == "source":
        mask = flooded(mask, divmod(source, grid[1]))
    large = np.kron(mask, np.ones((PATCH, PATCH), np.uint8))[: size[0], : size[1]]  # step 11
    if switches["upsample"] == "bicubic-any":
        bitmap = np.asarray(Image.fromarray(large * 255).resize((width, height), Image.BICUBIC)).astype(bool)
    else:
        ys, xs = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in ((height, size[0]), (width, size[1])))
        bitmap = large[np.ix_(ys, xs)].astype(bool)
    ys, xs = np.nonzero(bitmap)
    box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    return (literal_polygons(bitmap) if switches["outline"] == "polygon" else bitmap), box, gap


def literal_polygons(bitmap: np.ndarray) -> np.ndarray:
    """Step 12."""
    height, width = bitmap.shape
    polygons = []
    for contour in find_contours(np.pad(bitmap.astype(int), 1), 0.5):
        corners = approximate_polygon(contour - 1, 2)
        if len(corners) >= 3:
            polygons.append([max(0.0, value) for y, x in corners for value in (x, y)])
    if not polygons:
        return np.zeros((height, width), bool)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))).astype(bool)


def mined(arrays: list[np.ndarray], weights: str, **switches) -> list[Instances]:
    config = DinoAffinityConfig(weights=weights, short_side=SHORT, **switches)
    return list(DinoAffinity(config, Context()).mine(images_of(arrays)))


@pytest.mark.parametrize("offset", [-3.0, 3.0, 10.0])
def test_all_switches_together_are_the_authors_program_on_photographs(tmp_path, offset, photographs):
    arrays = photographs(10)
    weights, state = stored(tmp_path, offset, arrays)
    areas = set()
    for pixels, found in zip(arrays, mined(arrays, weights, **AUTHORS), strict=True):
        wanted, box, gap = literal(pixels, state, AUTHORS)
        assert gap > 1e-6  # no decision is a near tie, so float32 and float64 agree
        assert (found.mask(0) == wanted).all()
        assert found.boxes[0].tolist() == box
        assert 0 <= found.scores[0] <= 1
        areas.add(float(wanted.mean()))
    assert len(areas) >= 8
    assert sum(0.02 < area < 0.9 for area in areas) >= 4


@pytest.mark.parametrize("name", [*AUTHORS, None])
def test_each_switch_alone(tmp_path, name, photographs):
    arrays = photographs(10)
    weights, state = stored(tmp_path, 3.0, arrays)
    switches = {**PAPER, **({name: AUTHORS[name]} if name else {})}
    for pixels, found in zip(arrays, mined(arrays, weights, **switches), strict=True):
        wanted, box, gap = literal(pixels, state, switches)
        assert gap > 1e-6
        assert (found.mask(0) == wanted).all()
        assert found.boxes[0].tolist() == box


def test_every_switch_changes_some_mask(tmp_path, photographs):
    arrays = photographs(10)
    weights, _ = stored(tmp_path, 3.0, arrays)
    made = {
        name: tuple(one.masks for one in mined(arrays, weights, **{**PAPER, **({name: AUTHORS[name]} if name else {})}))
        for name in (*AUTHORS, None)
    }
    assert len(set(made.values())) == len(made)


def test_the_paper_is_the_default():
    config = DinoAffinityConfig()
    assert {name: getattr(config, name) for name in PAPER if name != "component"} == {
        name: value for name, value in PAPER.items() if name != "component"
    }


@pytest.mark.parametrize("mean", [-30.0, -10.0, 0.0, 10.0, 30.0])
@pytest.mark.parametrize("seed", range(3))
def test_random_features_with_logits_of_any_mean(mean, seed):
    random = np.random.default_rng(seed)
    q, k = random.normal(size=(6, 16)), random.normal(size=(6, 300, 16))
    k += mean * q[:, None] / (q**2).sum(axis=-1)[:, None, None]
    wanted, source, gap = affinity_mask(q, k, 5, 0.5)
    assert gap > 1e-9
    keys, query = torch.from_numpy(k.transpose(1, 0, 2).reshape(300, 96)), torch.from_numpy(q.reshape(96))
    mask, found = object_patches(keys[:, :80], query[:80], topk=0.4, features=keys, cls_mass=0.5)
    assert found == source
    assert mask.numpy().tolist() == wanted.tolist()


def test_more_heads_than_there_are(tmp_path):
    arrays = [np.zeros((40, 50, 3), np.uint8)]
    weights, _ = stored(tmp_path, 0.0, arrays)
    with pytest.raises(StageError, match="no 7 heads in a block of 6"):
        mined(arrays, weights, heads=7)


@pytest.mark.parametrize("batch", [1, 3])
def test_images_of_the_same_padded_size_do_not_mix(tmp_path, batch):
    """116 × 117 and 116 × 119 pixels are both 15 × 15 patches, with other zeros around them."""
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, (116, width, 3), dtype=np.uint8) for width in (117, 119, 117, 119, 117)]
    weights, state = stored(tmp_path, 3.0, arrays)
    for pixels, found in zip(arrays, mined(arrays, weights, **AUTHORS, batch=batch), strict=True):
        assert (found.to_masks().any(axis=0) == literal(pixels, state, AUTHORS)[0]).all()
