"""ProMerge against a transcription by loops over patches."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from mdp_core.api import Context, ImageRecord, Images
from mdp_dino.patches import Patches
from mdp_dino.promerge import (
    Object,
    ProMerge,
    agreement,
    belongs,
    common,
    foreground,
    kept_parts,
    likeness,
    mean_feature,
    merged,
    prompt_grid,
    touched_sides,
)
from mdp_dino.settings.promerge import ProMergeConfig
from mdp_dino.squares import sharpened

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
TINY = {"weights": "builtin:tiny", "centre_keys": True}
Cell = tuple[int, int]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = np.sqrt((a * a).sum()) * np.sqrt((b * b).sum())
    return float((a * b).sum() / lengths) if lengths > 0 else 0.0


def literal_groups(features: np.ndarray, rows: int, columns: int, stride: int = 4, tau: float = 0.2, least: float = 0.1):
    """Returns [(set of cells, score)], and the smallest distance of a cosine to its threshold."""
    cells = [(y, x) for y in range(rows) for x in range(columns)]
    of = {cell: features[index] for index, cell in enumerate(cells)}
    lengths = {cell: np.sqrt((of[cell] ** 2).sum()) for cell in cells}
    unit = {cell: of[cell] / lengths[cell] if lengths[cell] > 0 else of[cell] for cell in cells}
    gaps = [1.0]

    def above(value: float, threshold: float) -> bool:
        gaps.append(abs(value - threshold))
        return value > threshold

    def like(one: set[Cell], other: set[Cell]) -> float:
        a, b = (sum(unit[cell] for cell in group) / len(group) for group in (one, other))
        return cosine(a, b)

    prompts = [(y, x) for y, x in cells if y % stride == 0 and x % stride == 0]
    behind, parts = [], []
    for prompt in prompts:
        chosen = {cell for cell in cells if above(cosine(of[prompt], of[cell]), tau)}
        sides = [any(y == 0 for y, _ in chosen), any(y == rows - 1 for y, _ in chosen)]
        sides += [any(x == 0 for _, x in chosen), any(x == columns - 1 for _, x in chosen)]
        if sum(sides) > 1:
            behind.append(chosen)
            continue
        left, pieces = set(chosen), []
        while left:
            start = min(left)
            piece, queue = set(), [start]
            while queue:
                y, x = queue.pop()
                if (y, x) in left:
                    left.remove((y, x))
                    piece.add((y, x))
                    queue += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            pieces.append(piece)
        own = next((piece for piece in pieces if prompt in piece), None)
        parts += [piece for piece in pieces if own is not None and len(piece) >= len(own) / 2]
    background = {cell for cell in cells if behind and sum(cell in one for one in behind) > len(behind) / 2}
    if len(background) < least * len(cells):
        background = set()
    objects: list[tuple[set[Cell], list[set[Cell]]]] = []
    for part in sorted(parts, key=len, reverse=True):
        if background and (len(part & background) >= 0.8 * len(part) or above(like(part, background), 0.1)):
            continue
        for mask, members in objects:
            share = len(part & mask) / len(part)
            if share > 0.5 or (share > 0.1 and above(like(part, mask), 0.1)):
                mask.update(part)
                members.append(part)
                break
        else:
            objects.append((set(part), [part]))
    found = []
    for mask, members in sorted(objects, key=lambda each: len(each[0]), reverse=True):
        overlaps = sum(len(part & mask) / len(part | mask) for part in members)
        found.append((mask, overlaps / max(len(members), sum(prompt in mask for prompt in prompts))))
    return found, min(gaps)


def scene(seed: int, rows: int, columns: int, kinds: int, dim: int, noise: float) -> np.ndarray:
    """Features of a few kinds, in blocks, on a background of one kind."""
    random = np.random.default_rng(seed)
    means = random.normal(size=(kinds + 1, dim))
    which = np.zeros((rows, columns), int)
    for kind in range(1, kinds + 1):
        y, x = random.integers(0, rows), random.integers(0, columns)
        which[y : y + random.integers(1, 7), x : x + random.integers(1, 7)] = kind
    return means[which.ravel()] + noise * random.normal(size=(rows * columns, dim))


def groups(features: np.ndarray, grid: Cell, config: ProMergeConfig):
    """Returns what the plugin makes of features, as masks of patches of one pixel each."""
    pixels = np.random.default_rng(0).integers(0, 256, (*grid, 3), dtype=np.uint8)
    pixels[0, 0] = 255 - pixels[-1, -1]
    values = {"k": torch.from_numpy(features).float()}
    return ProMerge(config, Context()).group(Patches(values, {}, grid, 1, 1, pixels))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    grid=st.tuples(st.integers(2, 14), st.integers(2, 14)),
    kinds=st.integers(0, 5),
    dim=st.integers(2, 12),
    noise=st.sampled_from([0.1, 0.5, 1.0, 3.0]),
    stride=st.integers(1, 5),
    least=st.sampled_from([0.0, 0.1, 0.6]),
)
def test_random_features_equal_the_literal_method(seed, grid, kinds, dim, noise, stride, least):
    features = scene(seed, *grid, kinds, dim, noise).astype(np.float32)
    wanted, gap = literal_groups(features.astype(np.float64), *grid, stride, 0.2, least)
    assume(gap > 1e-6)  # otherwise float32 may decide otherwise
    config = ProMergeConfig(weights="builtin:tiny", stride=stride, background=least, crf=False)
    found = groups(features, grid, config)
    filled = [holes_filled(mask, grid) for mask, _ in wanted]
    raw = [as_mask(mask, grid) for mask, _ in wanted]
    kept = [index for index in range(len(wanted)) if raw[index].sum() / filled[index].sum() >= 0.5]
    assert [mask.tolist() for mask in found.masks] == [filled[index].tolist() for index in kept]
    np.testing.assert_allclose(found.scores, [wanted[index][1] for index in kept], rtol=1e-6)


def as_mask(cells: set[Cell], grid: Cell) -> np.ndarray:
    mask = np.zeros(grid, bool)
    for cell in cells:
        mask[cell] = True
    return mask


def holes_filled(cells: set[Cell], grid: Cell) -> np.ndarray:
    """Everything that the outside does not reach."""
    reached, queue = set(), [(-1, -1)]
    while queue:
        y, x = queue.pop()
        if -1 <= y <= grid[0] and -1 <= x <= grid[1] and (y, x) not in cells and (y, x) not in reached:
            reached.add((y, x))
            queue += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    return ~as_mask({cell for cell in reached if 0 <= cell[0] < grid[0] and 0 <= cell[1] < grid[1]}, grid)


@pytest.mark.parametrize("crf", [False, True])
def test_photographs_equal_the_literal_method(crf, photographs):
    arrays, side, clear = photographs(10), 96, 0
    records = [ImageRecord(str(index), *array.shape[:2]) for index, array in enumerate(arrays)]
    prior = ProMerge(ProMergeConfig(**TINY, square=side, crf=crf), Context())
    for pixels, found in zip(arrays, prior.mine(Images(records, lambda record: arrays[int(record.id)])), strict=True):
        small = np.asarray(Image.fromarray(pixels).resize((side, side), Image.LANCZOS))
        tensor = torch.from_numpy(((small / 255 - MEAN) / STD).transpose(2, 0, 1)[None]).float()
        keys = prior.reader.read(tensor, -1, ("k",)).values["k"].patches[0].double().numpy()
        wanted, gap = literal_groups(keys - keys.mean(axis=0), side // 8, side // 8)
        if gap <= 1e-6:
            continue
        clear += 1
        masks, scores = [], []
        for cells, score in wanted:
            raw = as_mask(cells, (side // 8, side // 8)).repeat(8, 0).repeat(8, 1)
            pixel_cells = {(int(y), int(x)) for y, x in zip(*raw.nonzero(), strict=True)}
            fine = sharpened([raw], small)[0] if crf else holes_filled(pixel_cells, raw.shape)
            if fine.any() and (fine & raw).sum() / (fine | raw).sum() >= 0.5:
                large = Image.fromarray(np.uint8(fine * 255)).resize(pixels.shape[1::-1], Image.BICUBIC)
                masks.append(np.asarray(large) > 127.5)
                scores.append(score)
        kept = [index for index, mask in enumerate(masks) if mask.any()]
        assert (found.to_masks() == np.array([masks[index] for index in kept]).reshape(found.to_masks().shape)).all()
        np.testing.assert_allclose(found.scores, [scores[index] for index in kept], rtol=1e-6)
    assert clear >= 7


def block(*corners: int, grid: Cell = (8, 8)) -> np.ndarray:
    mask = np.zeros(grid, bool)
    mask[corners[0] : corners[1], corners[2] : corners[3]] = True
    return mask


def test_two_objects_on_a_background_are_found_exactly():
    which = np.zeros((16, 16), int)
    which[2:8, 2:7], which[9:14, 8:15] = 1, 2
    means = np.eye(3)
    found = groups(means[which.ravel()].astype(np.float32), (16, 16), ProMergeConfig(weights="builtin:tiny", crf=False))
    assert [mask.tolist() for mask in found.masks] == [(which == 2).tolist(), (which == 1).tolist()]
    assert found.scores.tolist() == [1, 1]


def test_at_most_so_many_masks_the_largest():
    which = np.zeros((16, 16), int)
    which[2:8, 2:7], which[9:14, 8:15] = 1, 2
    config = ProMergeConfig(weights="builtin:tiny", crf=False, masks=1)
    found = groups(np.eye(3)[which.ravel()].astype(np.float32), (16, 16), config)
    assert [mask.tolist() for mask in found.masks] == [(which == 2).tolist()]


def test_nothing_but_background_is_no_object():
    assert len(groups(np.ones((64, 4), np.float32), (8, 8), ProMergeConfig(weights="builtin:tiny")).masks) == 0
    assert len(groups(np.zeros((64, 4), np.float32), (8, 8), ProMergeConfig(weights="builtin:tiny")).masks) == 0


def test_prompts_lie_on_a_grid():
    assert prompt_grid((5, 6), 4).tolist() == [0, 4, 24, 28]
    assert prompt_grid((1, 1), 4).tolist() == [0]


def test_sides_touched():
    masks = [block(2, 4, 2, 4), block(0, 2, 3, 5), block(0, 1, 0, 1), block(0, 8, 3, 4), block(0, 8, 0, 8)]
    assert touched_sides(np.array(masks)).tolist() == [0, 1, 2, 2, 4]


def test_the_background_is_what_more_than_half_hold_if_that_is_enough():
    candidates = np.array([block(0, 4, 0, 8), block(0, 2, 0, 8), block(0, 2, 0, 4), block(6, 8, 0, 8)])
    assert (common(candidates, 0.1) == block(0, 2, 0, 4)).all()
    assert not common(candidates, 0.2).any()
    assert not common(candidates[:0], 0.0).any()


def test_parts_half_as_large_as_the_prompts_own_are_kept():
    mask = block(0, 2, 0, 2) | block(4, 5, 0, 2) | block(7, 8, 7, 8)
    assert [part.sum() for part in kept_parts(mask, 0)] == [4, 2]
    assert [part.sum() for part in kept_parts(mask, 63)] == [4, 2, 1]
    assert kept_parts(mask, 20) == []


def test_a_part_is_dropped_where_it_lies_in_the_background_or_is_like_it():
    features = np.tile(np.array([0, 1], np.float32), (64, 1))
    background = block(0, 2, 0, 8)
    features[background.ravel()] = (1, 0)
    alike = block(6, 8, 6, 8)
    features[alike.ravel()] = (1, 0)
    mostly, partly = block(0, 5, 0, 1) & ~block(2, 3, 0, 1), block(0, 6, 3, 4)
    assert mostly[:2].sum() == 2
    kept = foreground([block(0, 2, 6, 8), alike, partly, block(3, 5, 3, 8)], background, features)
    assert [part.sum() for part in kept] == [10]  # partly has the cosine 0.45 with the background
    everything = foreground([alike, partly], np.zeros((8, 8), bool), features)
    assert [part.sum() for part in everything] == [6, 4]


def test_merging_by_overlap_and_likeness():
    features = np.zeros((64, 2), np.float32)
    features[:32], features[32:] = (1, 0), (0, 1)
    large = block(0, 4, 0, 4)
    assert belongs(block(0, 3, 3, 5) | block(0, 3, 2, 3), large, features)  # two thirds lie in it
    assert belongs(block(0, 2, 3, 6), large, features)  # a third does, and it is like it
    assert not belongs(
        block(3, 7, 3, 4), block(0, 4, 0, 4), np.vstack([features[:24] * 0 + (1, 0), features[24:] * 0 + (-1, 0)])
    )
    objects = merged([large, block(0, 2, 3, 6), block(5, 7, 5, 7)], features)
    assert [found.mask.sum() for found in objects] == [20, 4]
    assert [len(found.parts) for found in objects] == [2, 1]
    assert large.sum() == 16  # what it was given is as it was


def test_likeness_of_means():
    features = np.array([[1, 0], [1, 0], [0, 1], [0, 0]], np.float32)
    masks = np.eye(4, dtype=bool).reshape(4, 2, 2)
    means = [mean_feature(mask, features) for mask in (*masks, masks[0] | masks[2])]
    assert means[4].tolist() == [0.5, 0.5]
    assert likeness(means[0], means[1]) == 1
    assert likeness(means[0], means[2]) == 0
    assert likeness(means[0], means[3]) == 0
    assert likeness(means[4], means[1]) == pytest.approx(0.5**0.5)


def test_agreement_counts_prompts_that_selected_something_else():
    mask = block(0, 4, 0, 4)
    prompts = prompt_grid((8, 8), 2)  # four of them inside
    assert agreement(Object(mask, [mask] * 4), prompts) == 1
    assert agreement(Object(mask, [mask]), prompts) == 0.25
    assert agreement(Object(mask, [mask, block(0, 4, 0, 2)] * 2), prompts) == 0.75
    assert agreement(Object(mask, [mask] * 6), prompts) == 1
