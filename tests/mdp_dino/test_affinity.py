"""dino-affinity against the paper's equations, transcribed with N × N matrices."""

from collections import deque

import numpy as np
import pytest
import timm
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch.utils._python_dispatch import TorchDispatchMode

from mdp_backbones.preprocess import HALF, IMAGENET, Normalisation, pad_to_multiple, resize, to_input
from mdp_backbones.random_vit import random_vit
from mdp_backbones.vit import VitReader
from mdp_core.api import Context, ImageRecord, Images, Silence, StageError, WeightsError
from mdp_core.settings import step_settings
from mdp_dino.affinity import DinoAffinity, balanced, object_patches, separation, within_mass
from mdp_dino.components import component_of
from mdp_dino.patches import Patches
from mdp_dino.pixels import to_pixels
from mdp_dino.settings.affinity import DinoAffinityConfig


def literal_mask(
    q_cls: np.ndarray, k: np.ndarray, topk: float, centre: bool, compared: np.ndarray | None = None
) -> tuple[np.ndarray, int, float]:
    """§3.2 as printed: q_cls (heads, d), k (heads, N, d) in float64; affinities of ``compared`` (heads or 1, N, any) or of k.

    Returns M_s (N,), s, and the smallest distance of any decision to its tie (relative to the size of the terms).
    """
    heads, patches = k.shape[:2]
    compared = k if compared is None else compared
    if centre:
        k, compared = k - k.mean(axis=1, keepdims=True), compared - compared.mean(axis=1, keepdims=True)
    a_cls = np.zeros(patches)
    a = np.zeros((patches, patches))
    for h in range(heads):
        a_cls += q_cls[h] @ k[h].T / heads
    for one in compared:
        a += one @ one.T / len(compared)
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
    compared = random.normal(size=(heads, patches, dim + 1)) + shift
    other, source, gap = literal_mask(q, k, topk, centre, compared)
    if gap > 1e-9:
        features = torch.from_numpy(compared).permute(1, 0, 2).flatten(1)
        assert (
            object_patches(keys, query, topk=topk, centre_keys=centre, features=features)[0].numpy().tolist() == other.tolist()
        )
    at = divmod(source, columns)
    grid = mask.numpy().reshape(rows, columns)
    assert component_of(grid, at).tolist() == literal_component(grid, at).tolist()


def literal_balanced(features: np.ndarray, mask: np.ndarray, rounds: int) -> np.ndarray:
    """Each patch goes to the nearer of two means, again and again."""
    for _ in range(rounds):
        if mask.any() and not mask.all():
            inside = np.mean([f for f, m in zip(features, mask, strict=True) if m], axis=0)
            outside = np.mean([f for f, m in zip(features, mask, strict=True) if not m], axis=0)
            mask = np.array([np.linalg.norm(f - inside) < np.linalg.norm(f - outside) for f in features])
    return mask


@given(seed=st.integers(0, 10_000), rounds=st.integers(0, 4), share=st.floats(0, 1))
def test_balancing_sends_each_patch_to_the_nearer_mean(seed, rounds, share):
    rng = np.random.default_rng(seed)
    mask = rng.random(30) < share
    features = rng.standard_normal((30, 5)) + 1.5 * mask[:, None] + 7.0
    moved = balanced(torch.from_numpy(features), torch.from_numpy(mask), rounds)
    np.testing.assert_array_equal(moved.numpy(), literal_balanced(features, mask, rounds))


def test_balancing_takes_the_halo_off_a_small_object():
    object_share = np.concatenate([np.ones(10), np.full(8, 0.3), np.zeros(82)])  # ten patches of object, eight at its edge
    features = torch.from_numpy(np.outer(object_share, [1.0, 2.0]))
    keys = features - features.mean(dim=0)
    mask, _ = object_patches(keys, keys[0], topk=0.4)
    assert mask.sum() == 18
    assert balanced(features, mask, 1).sum() == 10


def test_component_of_a_source_that_is_not_set_is_empty():
    mask = np.array([[True, False], [False, True]])
    assert not component_of(mask, (0, 1)).any()
    assert component_of(mask, (1, 1)).tolist() == [[False, False], [False, True]]


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


def prior_of(listener: Heard | None = None, reader: VitReader | None = None, **settings) -> DinoAffinity:
    config = DinoAffinityConfig(**{"weights": "builtin:random", "short_side": 96, "centre_keys": True, **settings})
    prior = DinoAffinity(config, Context(listener=listener or Heard()))
    if reader is not None:
        prior.__dict__["reader"] = reader  # instead of loading weights
    return prior


def mine(images: Images, listener: Heard | None = None, reader: VitReader | None = None, **settings):
    return list(prior_of(listener, reader, **settings).mine(images))


def literal_features(pixels: np.ndarray, size: tuple[int, int], block: int = -1, normalisation: Normalisation = IMAGENET):
    """One image of ``size`` through the whole network with hooks: q of CLS (heads, d), facet → (heads or 1, N, d), the grid."""
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
    model.blocks[block].attn.qkv.register_forward_hook(lambda _m, _i, out: caught.update(qkv=out))
    model.blocks[block].register_forward_hook(lambda _m, _i, out: caught.update(tokens=out))
    scaled = (padded / 255 - np.array(normalisation.mean)) / np.array(normalisation.std)
    tensor = torch.from_numpy(scaled.transpose(2, 0, 1)[None]).float()
    with torch.no_grad():
        model(tensor)
    q, k, v = caught["qkv"][0].reshape(-1, 3, 3, 64).permute(1, 2, 0, 3).double().numpy()
    facets = {"q": q, "k": k, "v": v, "tokens": caught["tokens"].double().numpy()}
    return q[:, 0], {name: values[:, 1:] for name, values in facets.items()}, (rows, columns)


def literal_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    shorter = min(height, width)
    return tuple(short_side if side == shorter else int(short_side * side / shorter) for side in (height, width))


def literal_pixels(grid: np.ndarray, seen: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Nearest neighbours, pixel by pixel."""
    out = np.zeros(size, bool)
    for y in range(size[0]):
        for x in range(size[1]):
            out[y, x] = grid[int((y + 0.5) * seen[0] / size[0]) // 8, int((x + 0.5) * seen[1] / size[1]) // 8]
    return out


def literal_mine(
    pixels: np.ndarray,
    short_side: int,
    *,
    component: str = "source",
    centre: bool = True,
    block: int = -1,
    facet: str = "k",
    normalisation: Normalisation = IMAGENET,
) -> tuple[np.ndarray, float]:
    """One image: the network, the paper's matrices, then pixels one by one."""
    size = literal_size(*pixels.shape[:2], short_side)
    query, facets, (rows, columns) = literal_features(pixels, size, block, normalisation)
    mask, source, gap = literal_mask(query, facets["k"], 0.4, centre, facets[facet])
    grid = mask.reshape(rows, columns)
    if component == "source":
        grid = literal_component(grid, divmod(source, columns))
    return literal_pixels(grid, size, pixels.shape[:2]), gap


def literal_masks(q_cls, k, grid, *, topk, centre, component, masks, uncovered, compared=None, min_score=0.0):
    """The method again and again on the patches that are left, with matrices of those alone.

    Returns the masks (rows, columns), their scores, and for each the smallest distance of any decision so far to its tie.
    """
    compared = k if compared is None else compared
    left, found, scores, gaps, gap = list(range(k.shape[1])), [], [], [], np.inf
    while len(found) < masks and left and (not found or len(left) >= uncovered * k.shape[1]):
        mask, source, own_gap = literal_mask(q_cls, k[:, left], topk, centre, compared[:, left])
        gap = min(gap, own_gap)
        whole = np.zeros(grid[0] * grid[1], bool)
        for j, there in zip(left, mask, strict=True):
            whole[j] = there
        if component == "source":
            whole = literal_component(whole.reshape(grid), divmod(left[source], grid[1])).ravel()
        score = literal_separation(np.concatenate(list(compared[:, left]), axis=1), whole[left])
        if not whole.any() or score < min_score:
            break
        found.append(whole.reshape(grid))
        scores.append(score)
        gaps.append(gap)
        left = [j for j in left if not whole[j]]
    return found, scores, gaps


def literal_separation(features: np.ndarray, mask: np.ndarray) -> float:
    """One minus the variance within mask and rest, of the variance of all."""
    if mask.all() or not mask.any():
        return 0.0
    within = sum(np.linalg.norm(f - features[mask == m].mean(axis=0)) ** 2 for f, m in zip(features, mask, strict=True))
    return 1 - within / sum(np.linalg.norm(f - features.mean(axis=0)) ** 2 for f in features)


def literal_scales(pixels: np.ndarray, short_side: int, scales: tuple[float, ...], centre: bool):
    """Features of every scale on the grid of scale 1, patch by patch, each divided by its spread; scales become further heads."""
    base = literal_size(*pixels.shape[:2], short_side)
    grid = -(-base[0] // 8), -(-base[1] // 8)
    queries, keys = [], []
    for scale in scales:
        size = tuple(round(side * scale) for side in base)
        query, facets, there = literal_features(pixels, size)
        q_all, k = facets["q"], facets["k"].reshape(len(query), *there, -1)
        brought = [literal_resampled(one.reshape(len(query), *there, -1), grid, base, size) for one in (q_all, k)]
        spreads = []
        for one in brought:
            concatenated = np.concatenate(list(one), axis=1)
            around = concatenated - concatenated.mean(axis=0) if centre else concatenated
            spreads.append(np.sqrt(np.mean([vector @ vector for vector in around])))
        queries += list(query / spreads[0])
        keys += list(brought[1] / spreads[1])
    return np.array(queries), np.array(keys), grid, base


def literal_resampled(features: np.ndarray, grid: tuple[int, int], base: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Weights of a triangle around each wanted centre, in pixels of the scale. (heads, r, c, d) → (heads, N, d)."""
    rows, columns = features.shape[1:3]

    def weights(index: int, axis: int, cells: int) -> list[float]:
        factor = size[axis] / base[axis]
        centre = min(max((index + 0.5) * 8 * factor, 4), 8 * cells - 4)
        return [max(0.0, 1 - abs((j + 0.5) * 8 - centre) / (8 * max(1, factor))) for j in range(cells)]

    out = []
    for row in range(grid[0]):
        for column in range(grid[1]):
            table = np.outer(weights(row, 0, rows), weights(column, 1, columns))
            out.append((features * (table / table.sum())[None, :, :, None]).sum(axis=(1, 2)))
    return np.stack(out, axis=1)


@pytest.mark.parametrize("component", ["source", "all"])
@pytest.mark.parametrize("centre", [False, True])
def test_photographs_equal_the_literal_method(component, centre, photographs):
    arrays = photographs(10)
    mined = mine(images_of(arrays), component=component, centre_keys=centre, short_side=128)
    for pixels, found in zip(arrays, mined, strict=True):
        wanted, gap = literal_mine(pixels, 128, component=component, centre=centre)
        assert gap > 1e-5  # no decision is a near tie, so float32 and float64 agree
        assert (found.to_masks().any(axis=0) == wanted).all()


def test_drawn_scenes_equal_the_literal_method():
    arrays = [blobs(70, 110, seed) for seed in range(4)] + [blobs(111, 64, 4)]
    for pixels, found in zip(arrays, mine(images_of(arrays)), strict=True):
        wanted, _gap = literal_mine(pixels, 96)
        assert (found.mask(0) == wanted).all()
        assert 0 < found.scores[0] < 1
        assert found.labels.tolist() == [-1]


@pytest.mark.parametrize("component", ["source", "all"])
@pytest.mark.parametrize("centre", [False, True])
def test_several_masks_of_photographs_equal_the_literal_method(component, centre, photographs):
    arrays, counts = photographs(10), []
    mined = mine(images_of(arrays), component=component, centre_keys=centre, short_side=96, masks=4, uncovered=0.2)
    for pixels, found in zip(arrays, mined, strict=True):
        size = literal_size(*pixels.shape[:2], 96)
        query, facets, grid = literal_features(pixels, size)
        masks, scores, gaps = literal_masks(
            query, facets["k"], grid, topk=0.4, centre=centre, component=component, masks=4, uncovered=0.2
        )
        assert gaps[0] > 1e-6
        sure = sum(gap > 1e-6 for gap in gaps)  # from the first near tie on, float32 and float64 may go separate ways
        counts.append(sure)
        assert len(found) == len(masks) or sure < len(masks)
        for index in range(sure):
            assert (found.mask(index) == literal_pixels(masks[index], size, pixels.shape[:2])).all()
            assert found.scores[index] == pytest.approx(scores[index], abs=1e-4)
        assert not (found.to_masks().sum(axis=0) > 1).any()
    assert sum(counts) >= (20 if centre else 10)


@pytest.mark.parametrize(("scales", "centre"), [((1.0, 0.5), True), ((1.0, 2.0), False), ((0.75, 1.5), True), ((0.5,), True)])
def test_scales_of_photographs_equal_the_literal_method(scales, centre, photographs):
    arrays = photographs(10)
    mined = mine(images_of(arrays), centre_keys=centre, short_side=92, scales=scales, masks=2)
    for pixels, found in zip(arrays, mined, strict=True):
        query, keys, grid, size = literal_scales(pixels, 92, scales, centre)
        masks, scores, gaps = literal_masks(
            query, keys, grid, topk=0.4, centre=centre, component="source", masks=2, uncovered=0.1
        )
        assert gaps[0] > 1e-7
        for index in range(sum(gap > 1e-7 for gap in gaps)):
            assert (found.mask(index) == literal_pixels(masks[index], size, pixels.shape[:2])).all()
            assert found.scores[index] == pytest.approx(scores[index], abs=1e-4)


def seen(keys: np.ndarray, query: np.ndarray, grid: tuple[int, int], scales: int = 1) -> Patches:
    """Patches as the network might have seen them: keys (heads, N, d), query (heads, d)."""
    values = torch.from_numpy(keys).permute(1, 0, 2).flatten(1)
    noise = np.arange(grid[0] * grid[1] * 3, dtype=np.uint8).reshape(*grid, 3)
    return Patches(
        {"k_rotary": values, "k": values},
        {"q": torch.from_numpy(query).reshape(1, -1)},
        grid,
        len(query) // scales,
        1,
        noise,
        scales,
    )


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    grid=st.tuples(st.integers(1, 7), st.integers(2, 7)),
    topk=st.floats(0.05, 1.0),
    centre=st.booleans(),
    component=st.sampled_from(["source", "all"]),
    masks=st.integers(1, 6),
    uncovered=st.floats(0, 1),
    min_score=st.sampled_from([0.0, 0.05, 0.2]),
)
def test_several_masks_of_random_features(*, seed, grid, topk, centre, component, masks, uncovered, min_score):
    random = np.random.default_rng(seed)
    q, k = random.normal(size=(2, 5)), random.normal(size=(2, grid[0] * grid[1], 5))
    rules = {"topk": topk, "component": component, "masks": masks, "uncovered": uncovered, "min_score": min_score}
    wanted, scores, gaps = literal_masks(q, k, grid, centre=centre, **rules)
    assume(all(gap > 1e-9 for gap in gaps))
    assume(all(abs(score - min_score) > 1e-9 for score in scores))
    found = prior_of(centre_keys=centre, **rules).group(seen(k, q, grid))
    assert found.masks.tolist() == [one.tolist() for one in wanted]
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)


def test_a_second_object_is_found_when_the_first_is_covered():
    """Two things of one kind, apart, and a third of another kind that CLS attends to less."""
    features = np.zeros((6, 12, 3))
    features[..., 0] = 1
    features[1:4, 1:4] = features[1:4, 8:11] = (0, 1, 0)
    features[5, 4:8] = (0, 0, 1)
    keys, query = (
        features.reshape(1, 72, 3) + 0.01 * np.random.default_rng(0).normal(size=(1, 72, 3)),
        np.array([[0, 2.0, 1.0]]),
    )
    one = prior_of(masks=1, topk=0.1).group(seen(keys, query, (6, 12)))
    many = prior_of(masks=9, topk=0.1, min_score=0.1).group(seen(keys, query, (6, 12)))
    assert one.masks.tolist() == many.masks[:1].tolist()
    assert [int(mask.sum()) for mask in many.masks[:3]] == [9, 9, 4]
    assert (many.masks.sum(axis=0) <= 1).all()


def test_where_the_search_for_masks_ends():
    random = np.random.default_rng(1)
    patches = seen(random.normal(size=(2, 60, 8)), random.normal(size=(2, 8)), (6, 10))

    def masks(**rules) -> np.ndarray:
        return prior_of(masks=60, **rules).group(patches).masks

    everything = masks(uncovered=0)
    assert (everything.sum(axis=0) <= 1).all()
    assert everything.sum() >= 59  # a patch alone differs from nothing: centred, it is zero
    assert len(everything) > 5
    for uncovered in (0.3, 0.6, 1.0):
        some = masks(uncovered=uncovered)
        before = 1 - everything[: len(some) - 1].sum() / 60
        assert before >= uncovered
        assert 1 - some.sum() / 60 < uncovered
    scores = prior_of(masks=60, uncovered=0).group(patches).scores
    limit = float(np.sort(scores)[len(scores) // 2])
    assert len(masks(uncovered=0, min_score=limit)) == int(np.argmax(scores < limit))
    assert len(masks(min_score=1.0)) == 0


def test_heads_are_the_first_of_each_scale():
    random = np.random.default_rng(2)
    q, k = random.normal(size=(6, 4)), random.normal(size=(6, 40, 4))  # two scales of three heads
    first = [0, 1, 3, 4]
    wanted, _source, _gap = literal_mask(q[first], k[first], 0.3, False, k)
    found = prior_of(heads=2, topk=0.3, centre_keys=False, component="all").group(seen(k, q, (5, 8), scales=2))
    assert found.masks[0].ravel().tolist() == wanted.tolist()
    other, _source, _gap = literal_mask(q[:4], k[:4], 0.3, False, k)
    assert other.tolist() != wanted.tolist()


@given(seed=st.integers(0, 10_000), share=st.floats(0, 1), apart=st.floats(0, 4), scale=st.floats(0.01, 100))
def test_separation_is_the_variance_between_mask_and_rest(seed, share, apart, scale):
    random = np.random.default_rng(seed)
    mask = random.random(40) < share
    features = scale * (random.standard_normal((40, 6)) + apart * mask[:, None] + 3)
    found = separation(torch.from_numpy(features), torch.from_numpy(mask))
    assert found == pytest.approx(literal_separation(features, mask), abs=1e-9)
    assert 0 <= found <= 1
    assert found == pytest.approx(separation(torch.from_numpy(features), torch.from_numpy(~mask)), abs=1e-9)


def test_separation_of_all_or_of_equal_patches_is_zero_and_of_two_uniform_parts_one():
    mask = torch.tensor([True, True, False, False, False])
    assert separation(torch.ones(5, 3), mask) == 0
    assert separation(torch.rand(5, 3), torch.ones(5).bool()) == 0
    assert separation(mask[:, None].float() * torch.tensor([2.0, -1.0]) + 7, mask) == pytest.approx(1)


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (300, 1), (40, 500), (9, 7)])
@pytest.mark.parametrize("extra", [{}, {"masks": 4, "scales": (0.5, 1.0, 1.5), "balance": 2}, {"padding": "zeros"}])
def test_odd_images(size, extra, recwarn):
    random = np.random.default_rng(0)
    plain = np.full((*size, 3), 90, np.uint8)
    noise = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    grey, found = mine(images_of([plain, noise]), weights="builtin:tiny", short_side=32, **extra)
    assert len(grey) == 0
    assert found.size == size
    assert (found.areas() > 0).all()
    assert np.isfinite(found.scores).all()
    assert not [one for one in recwarn if issubclass(one.category, RuntimeWarning)]


@pytest.mark.parametrize("facet", ["k", "q", "v", "tokens"])
@pytest.mark.parametrize("block", [-1, 1])
def test_block_and_facet_say_what_is_compared(block, facet):
    arrays = [blobs(70, 110, seed) for seed in range(3)]
    found = mine(images_of(arrays), block=block, facet=facet)
    wanted = [literal_mine(pixels, 96, block=block, facet=facet) for pixels in arrays]
    decided = [(one, mask) for one, (mask, gap) in zip(found, wanted, strict=True) if gap > 1e-5]
    assert decided
    for one, mask in decided:
        assert (one.to_masks().any(axis=0) == mask).all()


def test_blocks_and_facets_give_different_masks():
    images = images_of([blobs(70, 110, seed) for seed in range(6)])
    masks = [
        tuple(mine(images, block=block, facet=facet)[n].to_masks().tobytes() for n in range(6))
        for block, facet in ((-1, "k"), (0, "k"), (-1, "v"), (-1, "tokens"))
    ]
    assert len(set(masks)) == 4


def test_a_block_that_is_not_there_is_an_error():
    with pytest.raises(StageError, match="no block 4 in a network of 4"):
        mine(images_of([blobs(64, 64, 0)]), block=4)


def test_pixels_are_normalised_as_the_network_wants_them():
    arrays = [blobs(70, 110, seed) for seed in range(6)]
    found = mine(images_of(arrays), reader=VitReader(random_vit().eval(), HALF))
    for pixels, one in zip(arrays, found, strict=True):
        wanted, gap = literal_mine(pixels, 96, normalisation=HALF)
        assert (one.mask(0) == wanted).all() or gap < 1e-5


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_same_masks(precision):
    images = images_of([blobs(70, 110, seed) for seed in range(6)])
    for half, full in zip(mine(images, precision=precision), mine(images), strict=True):
        assert (half.mask(0) == full.mask(0)).mean() > 0.9


def test_precision_is_part_of_the_key():
    keys = [step_settings(DinoAffinityConfig(precision=name), "mine", ["mine"]) for name in ("fp32", "bf16")]
    assert keys[0] != keys[1]


def rotary_network() -> torch.nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_small_patch16_dinov3", embed_dim=48, depth=2, num_heads=3, num_classes=0, dynamic_img_size=True
    )
    for parameter in model.requires_grad_(False).parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def test_rotary_positions_turn_what_cls_attends_to_and_not_what_is_compared(monkeypatch):
    random = np.random.default_rng(0)
    reader, arrays = VitReader(rotary_network()), [random.integers(0, 256, (70, 110, 3), dtype=np.uint8) for _ in range(8)]
    seen, real = {}, torch.nn.functional.scaled_dot_product_attention
    reader.model.blocks[-1].attn.k_norm.register_forward_hook(lambda _m, _i, out: seen.update(plain=out[0, :, 5:]))

    def spy(q, k, v, **kwargs):
        seen.update(query=q[0, :, 0], turned=k[0, :, 5:])
        return real(q, k, v, **kwargs)

    masks = {"right": [], "nothing turned": [], "all turned": []}
    for pixels in arrays:
        padded = pad_to_multiple(resize(pixels, 96, 150), 16)
        with monkeypatch.context() as patch, torch.no_grad():
            patch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
            reader.model(to_input([padded], reader.device))
        query, turned, plain = (seen[name].double().numpy() for name in ("query", "turned", "plain"))
        for name, keys, compared in (
            ("right", turned, plain),
            ("nothing turned", plain, plain),
            ("all turned", turned, turned),
        ):
            mask, source, gap = literal_mask(query, keys, 0.1, True, compared)
            assert gap > 1e-5
            grid = literal_component(mask.reshape(6, 10), divmod(source, 10))
            masks[name].append(to_pixels(grid, 16, (96, 150), (70, 110)).tolist())
    found = [one.mask(0).tolist() for one in mine(images_of(arrays), reader=reader, topk=0.1)]
    assert found == masks["right"]
    assert found != masks["nothing turned"]
    assert found != masks["all turned"]


def test_a_network_without_cls_is_refused(monkeypatch):
    without = VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=24,
        depth=1,
        num_heads=2,
        class_token=False,
        global_pool="avg",
        dynamic_img_size=True,
    )
    monkeypatch.setattr("mdp_backbones.build.random_vit", lambda: without)
    with pytest.raises(WeightsError, match="no CLS token"):
        mine(images_of([blobs(64, 64, 0)]))


def test_neither_batch_size_nor_company_matters():
    arrays = [blobs(*((64, 96), (96, 64), (64, 80))[seed % 3], seed) for seed in range(11)]
    alone = [mine(images_of([array]), batch=1)[0] for array in arrays]
    for batch in (1, 3, 8):
        together = mine(images_of(arrays), batch=batch)
        assert [one.masks for one in together] == [one.masks for one in alone]
        assert [one.size for one in together] == [array.shape[:2] for array in arrays]


def test_whole_image_is_kept_and_warned_about_once():
    heard = Heard()
    arrays = [np.full((64, 64, 3), 60 * seed, np.uint8) for seed in range(1, 4)]
    for pixels in arrays:
        pixels[0, 0] += 1  # of one colour they would have no mask
    mined = mine(images_of(arrays), heard, centre_keys=False)
    assert all(one.mask(0).all() for one in mined)
    assert [one.scores.tolist() for one in mined] == [[0.0]] * 3
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


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=40), st.floats(0.05, 0.95))
def test_the_gate_keeps_what_lies_above_the_rest_of_the_mass(values, mass):
    total, running, wanted = sum(values), 0.0, np.zeros(len(values))
    assume(abs(total) > 1e-3)
    for j in sorted(range(len(values)), key=lambda j: (values[j], j)):
        running += values[j] / total
        assume(abs(running - (1 - mass)) > 1e-9)
        wanted[j] = values[j] if running > 1 - mass else 0.0
    assert within_mass(torch.tensor(values, dtype=torch.float64), mass).tolist() == wanted.tolist()


@pytest.mark.parametrize(("mean", "share"), [(30, 0.94), (10, 0.64), (-10, 0.48), (-30, 0.065)])
def test_what_the_gate_leaves_of_the_most_attended(mean, share):
    """Measured of the authors' rule on logits of deviation 10: a gate made for attention depends on the mean of raw logits."""
    found = []
    for seed in range(10):
        logits = torch.from_numpy(np.random.default_rng(seed).normal(mean, 10, 1600))
        gated = within_mass(logits, 0.5).argsort(descending=True, stable=True)[:640]
        found.append(len(set(gated.tolist()) & set(logits.argsort(descending=True)[:640].tolist())) / 640)
    assert np.mean(found) == pytest.approx(share, abs=0.03)


def test_of_equal_logits_the_lower_index_comes_first():
    keys, query = torch.tensor([[0.0], [5.0], [0.0], [-1.0], [0.0]]), torch.ones(1)
    features = torch.eye(5)
    for count, wanted in ((2, [0, 1]), (3, [0, 1, 2])):
        mask, source = object_patches(keys, query, topk=count / 5, features=features + 0.5, cls_mass=0.5)
        assert source == 1
        chosen = (features + 0.5)[wanted].sum(dim=0) @ (features + 0.5).T > 0
        assert mask.tolist() == chosen.tolist()
    assert within_mass(torch.zeros(3), 0.5).tolist() == [0, 0, 0]


@pytest.mark.parametrize("patches", [5, 7, 9, 10, 999, 1201])
def test_k_is_rounded_down(patches):
    """k = int(0.4 · (tokens - 1)). All patches are similar to the source, but otherwise a simplex: the mask is the proposals."""
    simplex = torch.eye(patches - 1).double() - 1 / (patches - 1)
    features = torch.cat([torch.full((patches - 1, 1), 1 / (10 * patches)).double(), simplex], dim=1)
    features = torch.cat([torch.eye(patches).double()[:1], features])
    keys = torch.arange(patches, 0, -1).double()[:, None]
    mask, source = object_patches(keys, torch.ones(1).double(), topk=0.4, features=features)
    tokens = patches + 1
    k = int(0.4 * (tokens - 1))
    assert source == 0
    assert mask.tolist() == [True] * k + [False] * (patches - k)


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
    reader = VitReader(random_vit().eval())
    patches = 64 * 64
    with torch.no_grad(), LargestOutput() as largest:
        VitReader.read.__wrapped__(reader, torch.zeros(1, 3, 512, 512), facets=("q", "k_rotary", "k"))
    assert 0 < largest.elements < 3 * patches**2 / 4  # the MLP's hidden layer: N · 768
