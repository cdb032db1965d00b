"""GrabCut: its cut is the least energy of the learnt colours, its score is that of a loop, and nothing else decides what comes out."""

import json
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from mdp_core.api import Context, DataError, ImageRecord, Images, Instances
from mdp_core.settings import step_settings
from mdp_handcrafted.grabcut import SEED, GrabCut, Mixture, agreement, corners, cut
from mdp_handcrafted.settings.grabcut import GrabCutConfig


def images_of(arrays):
    records = [ImageRecord(f"{index}.jpg", *array.shape[:2]) for index, array in enumerate(arrays)]
    return Images(records, lambda record: arrays[int(record.id.partition(".")[0])])


def mine(arrays, **given) -> list[Instances]:
    return list(GrabCut(GrabCutConfig(**given), Context()).mine(images_of(arrays)))


def scene(seed: int = 0, size: tuple[int, int] = (60, 80)) -> tuple[np.ndarray, np.ndarray]:
    """A disc of one texture on another, and the disc."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    disc = (y - size[0] / 2) ** 2 + (x - size[1] / 2) ** 2 < (min(size) / 4) ** 2
    pixels = np.where(disc[..., None], rng.normal((200, 60, 50), 12, (*size, 3)), rng.normal((60, 100, 70), 12, (*size, 3)))
    return np.clip(pixels, 0, 255).astype(np.uint8), disc


def literal_likelihood(model: np.ndarray, colour: np.ndarray) -> float:
    """Weights, means and covariances of five Gaussians as OpenCV stores them, without (2π)^(-3/2)."""
    total = 0.0
    for k in range(5):
        weight, mean, covariance = model[k], model[5 + 3 * k : 8 + 3 * k], model[20 + 9 * k : 29 + 9 * k].reshape(3, 3)
        if weight > 0:
            apart = colour - mean
            away = float(apart @ np.linalg.inv(covariance) @ apart)
            total += weight / math.sqrt(np.linalg.det(covariance)) * math.exp(-away / 2)
    return total


def opencv(pixels: np.ndarray, rectangle: tuple[int, int, int, int], iterations: int):
    labels, background, foreground = np.zeros(pixels.shape[:2], np.uint8), np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(SEED)
    cv2.grabCut(pixels[..., ::-1].copy(), labels, rectangle, background, foreground, iterations, cv2.GC_INIT_WITH_RECT)
    return labels, background[0], foreground[0]


@pytest.mark.parametrize("seed", range(4))
def test_the_cut_is_the_least_energy_of_the_learnt_colours(seed):
    """Equations 8 to 11 as a graph by loops, cut by SciPy's maximum flow in integers of 1/1000."""
    pixels, _ = scene(seed, (14, 18))
    x0, y0, width, height = 2, 2, 13, 10
    labels, background, foreground = opencv(pixels, (x0, y0, width, height), 2)
    bgr, (rows, columns) = pixels[..., ::-1].astype(np.float64), pixels.shape[:2]
    pairs = []
    for y in range(rows):
        for x in range(columns):
            for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
                if y + dy < rows and 0 <= x + dx < columns:
                    pairs.append(((y, x), (y + dy, x + dx), math.hypot(dy, dx)))
    squares = [((bgr[a] - bgr[b]) ** 2).sum() for a, b, _ in pairs]
    beta = 1 / (2 * np.mean(squares))
    edges: dict[tuple[int, int], int] = {}
    source, sink, unit = rows * columns, rows * columns + 1, 1000
    for (a, b, far), square in zip(pairs, squares, strict=True):
        weight = round(unit * 50 / far * math.exp(-beta * square))
        i, j = a[0] * columns + a[1], b[0] * columns + b[1]
        edges[i, j] = edges[j, i] = weight
    for y in range(rows):
        for x in range(columns):
            i = y * columns + x
            if x0 <= x < x0 + width and y0 <= y < y0 + height:
                edges[source, i] = round(unit * min(700, -math.log(max(literal_likelihood(background, bgr[y, x]), 1e-300))))
                edges[i, sink] = round(unit * min(700, -math.log(max(literal_likelihood(foreground, bgr[y, x]), 1e-300))))
                lowest = min(edges[source, i], edges[i, sink])  # only the difference counts; capacities are not negative
                edges[source, i] -= lowest
                edges[i, sink] -= lowest
            else:
                edges[i, sink] = unit * 450
    index = np.array(list(edges))
    graph = csr_array((np.array(list(edges.values()), np.int32), (index[:, 0], index[:, 1])), shape=(sink + 1, sink + 1))
    least = maximum_flow(graph, source, sink).flow_value
    inside = np.append((labels.ravel() % 2) == 1, [True, False])  # GC_FGD is 1, GC_PR_FGD is 3
    energy = sum(weight for (i, j), weight in edges.items() if inside[i] and not inside[j])
    assert inside.sum() > 5
    assert energy <= least * (1 + 1e-6) + len(edges)


def literal_score(pixels: np.ndarray, box: tuple[int, int, int, int], mask: np.ndarray) -> float:
    _, background, foreground = opencv(pixels, (box[0], box[1], box[2] - box[0], box[3] - box[1]), 5)
    right, of = [0.0, 0.0], [0, 0]
    for y in range(pixels.shape[0]):
        for x in range(pixels.shape[1]):
            colour = pixels[y, x, ::-1].astype(np.float64)
            inside, outside = literal_likelihood(foreground, colour), literal_likelihood(background, colour)
            side = int(mask[y, x])
            vote = 0.5 if inside == outside else float(inside > outside)
            right[side] += vote if side else 1 - vote
            of[side] += 1
    return max(0.0, right[0] / of[0] + right[1] / of[1] - 1)


def test_scores_and_masks_of_photographs_by_loops(photographs):
    answers = []
    for pixels in photographs(10):
        small = cv2.resize(pixels, (60, 44), interpolation=cv2.INTER_AREA)
        box = corners((0.1, 0.1, 0.9, 0.9), (44, 60))
        labels, *_ = opencv(small, (box[0], box[1], box[2] - box[0], box[3] - box[1]), 5)
        found = cut(small, (0.1, 0.1, 0.9, 0.9), 5, 0.01)
        everything = np.isin(labels, [cv2.GC_FGD, cv2.GC_PR_FGD])
        count, parts = cv2.connectedComponents(everything.astype(np.uint8), connectivity=8)
        wanted = max((parts == part for part in range(1, count)), key=np.sum, default=everything)
        answers.append(found is not None)
        if found is None:
            assert wanted.sum() < 0.01 * (box[2] - box[0]) * (box[3] - box[1])
            continue
        assert found.mask.tolist() == wanted.tolist()
        assert cut(small, (0.1, 0.1, 0.9, 0.9), 5, 0.01, whole=True).mask.tolist() == everything.tolist()
        assert found.score == pytest.approx(literal_score(small, box, wanted), abs=1e-9)
    assert sum(answers) >= 3  # so small, it collapses in every other photograph; at 300 pixels in one of eight


def test_photographs_alone_together_and_with_other_threads(photographs):
    arrays = photographs(10)
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        alone = [mine([array], side=150)[0] for array in arrays]
        cv2.setNumThreads(4)
        cv2.setRNGSeed(99)
        together = mine(arrays[::-1], side=150)[::-1]
    finally:
        cv2.setNumThreads(threads)
    for one, other, array in zip(alone, together, arrays, strict=True):
        assert one.size == array.shape[:2]
        assert one.masks == other.masks
        assert one.scores.tolist() == other.scores.tolist()
    assert sum(len(one) for one in alone) >= 6


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_mixtures_by_loops(seed):
    rng = np.random.default_rng(seed)
    spread = rng.normal(size=(5, 3, 3))
    weights = rng.dirichlet(np.ones(5)) * (rng.random(5) < 0.8)
    covariances = spread @ spread.transpose(0, 2, 1) * 20 + np.eye(3)
    model = np.concatenate([weights, rng.uniform(0, 255, 15), covariances.ravel()])
    colours = rng.uniform(0, 255, (12, 3))
    found = Mixture.from_opencv(model[None]).likelihood(colours)
    np.testing.assert_allclose(found, [literal_likelihood(model, colour) for colour in colours], rtol=1e-9)


def test_agreement_is_zero_for_chance_and_one_for_certainty():
    mask = np.zeros((6, 6), bool)
    mask[2:4, 2:4] = True
    assert agreement(mask, np.where(mask, 1.0, -1.0)) == 1
    assert agreement(mask, np.zeros((6, 6))) == 0
    assert agreement(mask, np.where(mask, -1.0, 1.0)) == 0
    assert agreement(mask, np.where(mask, 1.0, 0.0)) == 0.5
    assert agreement(np.ones((2, 2), bool), np.ones((2, 2))) == 0


def test_finds_the_object_in_the_middle_and_in_boxes(tmp_path):
    pixels, disc = scene()
    (found,) = mine([pixels])
    assert (found.mask(0) == disc).mean() > 0.98
    assert found.scores[0] > 0.9
    boxes = [[18, 8, 44, 44], [0, 0, 10, 10]]
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps([{"image_id": "0", "bbox": box} for box in boxes]))
    boxed = mine([pixels], boxes=str(file))[0]
    assert (boxed.mask(0) == disc).mean() > 0.98
    with_mask = {"size": [60, 80], "counts": [18 * 60, 44 * 60, 18 * 60]}
    file.write_text(json.dumps([{"image_id": "0.jpg", "segmentation": with_mask}]))
    masked = mine([pixels], boxes=str(file))[0]
    assert (masked.mask(0) == disc).mean() > 0.98


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 2), (3, 3), (3, 900), (900, 3), (64, 64)])
def test_odd_images(size):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    arrays = [noise, noise[..., :1].repeat(3, axis=-1), *(np.full((*size, 3), grey, np.uint8) for grey in (0, 119, 255))]
    found = mine(arrays)
    assert [len(one) for one in found[2:]] == [0, 0, 0]
    for one in found:
        assert one.size == size
        assert (one.areas() > 0).all()
        assert ((one.scores > 0) & (one.scores <= 1)).all()


def test_a_huge_image():
    pixels, disc = scene()
    large = cv2.resize(pixels, (4000, 3000), interpolation=cv2.INTER_NEAREST)
    (found,) = mine([large])
    wanted = cv2.resize(disc.astype(np.uint8), (4000, 3000), interpolation=cv2.INTER_NEAREST) > 0
    assert found.size == (3000, 4000)
    assert (found.mask(0) & wanted).sum() / (found.mask(0) | wanted).sum() > 0.9


def test_a_collapse_is_no_object():
    pixels, _ = scene()
    assert cut(pixels, (0.5, 0.5, 0.5, 0.9), 5, 0.01) is None  # no pixels
    assert cut(pixels, (-1.0, -1.0, 2.0, 2.0), 5, 0.01) is None  # none outside
    assert cut(pixels, (0.1, 0.1, 0.9, 0.9), 5, 0.99) is None  # little is left


@settings(max_examples=60, deadline=None)
@given(
    box=st.tuples(*[st.floats(-0.5, 1.5)] * 4),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_corners_are_the_pixels_whose_centres_lie_in_a_box(box, size):
    x0, y0, x1, y1 = corners(box, size)
    height, width = size
    inside = {
        (y, x)
        for y in range(height)
        for x in range(width)
        if box[0] * width <= x + 0.5 < box[2] * width and box[1] * height <= y + 0.5 < box[3] * height
    }
    assert {(y, x) for y in range(y0, y1) for x in range(x0, x1)} == inside


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([{"image_id": "1.jpg", "bbox": [0, 0, 1, 1]}], r"not listed: image 0\.jpg"),
        ([{"image_id": "0", "bbox": [0, 0, 1]}], r"image 0\.jpg: the box of an annotation is \[0, 0, 1\]"),
        ([{"image_id": "0", "bbox": [0, 0, 1, float("nan")]}], "the box of an annotation is"),
        ([{"image_id": "0"}], "an annotation without a mask"),
        ([{"image_id": "0", "segmentation": {"size": [3, 3], "counts": [9]}}], "a mask of another size, 3 × 3"),
        (
            {"images": [{"id": 0, "height": 9, "width": 9}], "annotations": [{"image_id": 0, "bbox": [0, 0, 1, 1]}]},
            "9 × 9 pixels",
        ),
    ],
)
def test_wrong_boxes_are_said(tmp_path, given, message):
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(given))
    with pytest.raises(DataError, match=message):
        mine([scene()[0]], boxes=str(file))


def test_images_that_are_not_listed_may_be_empty(tmp_path):
    file = tmp_path / "boxes.json"
    file.write_text("[]")
    assert len(mine([scene()[0]], boxes=str(file), missing="empty")[0]) == 0


def test_boxes_count_by_their_contents_and_state_their_labels(tmp_path):
    one, other = tmp_path / "a.json", tmp_path / "b.json"
    one.write_text("[]")
    other.write_text("[]")
    keys = [step_settings(GrabCutConfig(boxes=str(path)), "mine", ["mine"]) for path in (one, other)]
    assert keys[0] == keys[1]
    other.write_text("[ ]")
    assert step_settings(GrabCutConfig(boxes=str(other)), "mine", ["mine"]) != keys[0]
    assert GrabCutConfig().labels_used() is None
    assert "not stated" in GrabCutConfig(boxes=str(one)).labels_used()
    assert GrabCutConfig(boxes=str(one), supervision="none").labels_used() is None
    assert GrabCutConfig(boxes=str(one), supervision="boxes by hand").labels_used() == "made elsewhere with: boxes by hand"
