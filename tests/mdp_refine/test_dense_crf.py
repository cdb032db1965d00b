"""dense-crf as a stage, and against pydensecrf where it is installed."""

import sys

import cv2
import numpy as np
import pytest

from mdp_core.api import Context, ImageRecord, Images, Instances, LabelMap, StageError, read_image
from mdp_refine.dense_crf import DenseCrf, most_probable
from mdp_refine.settings import DenseCrfConfig


def refine(pixels, prediction, **settings):
    images = Images([ImageRecord("photo", *pixels.shape[:2])], lambda _: pixels)
    (found,) = DenseCrf(DenseCrfConfig(**settings), Context()).refine(images, [prediction])
    assert found.size == pixels.shape[:2]
    return found.values


def disc(side=48, shift=3):
    """A grey disc on white with noise, and label maps of the disc and of the disc moved."""
    y, x = np.mgrid[:side, :side]
    truth = ((y - side / 2) ** 2 + (x - side / 2) ** 2 < (side / 4) ** 2).astype(np.uint8) * 4
    noise = np.random.default_rng(0).integers(-2, 3, (side, side, 3))
    pixels = (np.where(truth[..., None] > 0, 90, 220) + noise).astype(np.uint8)
    return pixels, truth, np.roll(truth, shift, 1)


def soft(values, labels=6):
    """Probabilities of a label map at half size."""
    small = cv2.resize(values, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_NEAREST)
    blurred = cv2.GaussianBlur(np.eye(labels, dtype=np.float32)[small], (0, 0), 1.5).transpose(2, 0, 1) + 0.01
    return LabelMap(values, (blurred / blurred.sum(0)).astype(np.float16))


@pytest.mark.parametrize("unary", ["probabilities", "labels"])
def test_labels_move_to_the_borders_of_the_image(unary):
    pixels, truth, moved = disc()
    found = refine(pixels, soft(moved), unary=unary)
    assert found.dtype == np.uint8
    assert (moved == truth).mean() < 0.96
    assert (found == truth).mean() > 0.985
    assert (found == refine(pixels, soft(moved), unary=unary)).all()


def test_instances_are_painted_and_refined():
    pixels, truth, moved = disc()
    masks = np.stack([moved > 0, np.zeros_like(moved, bool)])
    found = refine(pixels, Instances.from_masks(masks, labels=[3, 1], scores=[0.9, 0.8]))
    assert (found == truth).mean() > 0.985
    with pytest.raises(StageError, match="without a cluster"):
        refine(pixels, Instances.from_masks(masks))


def test_pixels_to_be_ignored_stay_ignored():
    pixels, truth, moved = disc()
    moved[:5] = 255
    for unary in ("labels", "probabilities"):
        found = refine(pixels, LabelMap(moved, soft(truth).probabilities), unary=unary)
        assert ((found == 255) == (moved == 255)).all()
    everything = np.full((4, 5), 255, np.uint8)
    assert (refine(np.zeros((4, 5, 3), np.uint8), LabelMap(everything), unary="labels") == 255).all()


def test_one_label_one_pixel_and_constant_probabilities():
    pixels, _, _ = disc()
    assert (refine(pixels, LabelMap(np.full((48, 48), 9, np.uint8)), unary="labels") == 9).all()
    certain = np.zeros((3, 1, 1), np.float16)
    certain[2] = 1
    assert (refine(pixels, LabelMap(np.zeros((48, 48), np.uint8), certain)) == 2).all()
    constant = np.array([0.25, 0.4, 0.35], np.float16)[:, None, None]
    assert (refine(pixels, LabelMap(np.zeros((48, 48), np.uint8), constant)) == 1).all()
    dot = np.zeros((1, 1, 3), np.uint8)
    assert refine(dot, LabelMap(np.zeros((1, 1), np.uint8), constant)).tolist() == [[1]]
    assert refine(dot, LabelMap(np.zeros((1, 1), np.uint8), np.full((2, 3, 3), 0.5, np.float16))).tolist() == [[0]]


def test_many_clusters_stay_in_16_bits():
    pixels, truth, moved = disc()
    wide = np.where(moved > 0, 700, 0).astype(np.uint16)
    found = refine(pixels, LabelMap(wide), unary="labels")
    assert found.dtype == np.uint16
    assert ((found == 700) == (truth > 0)).mean() > 0.985


def test_kernels_of_weight_0_leave_the_most_probable_label():
    pixels, _, moved = disc()
    off = {"gaussian": {"weight": 0}, "bilateral": {"weight": 0}}
    assert (refine(pixels, LabelMap(moved), unary="labels", **off) == moved).all()


def test_a_smaller_working_size_gives_nearly_the_same():
    pixels, truth, moved = disc(96, 6)
    found = refine(pixels, soft(moved), max_side=48)
    assert (found == truth).mean() > 0.97
    hard = refine(pixels, LabelMap(moved), unary="labels", max_side=48)
    assert (hard == truth).mean() > 0.97
    same = refine(pixels, soft(moved), max_side=96)
    assert (same == refine(pixels, soft(moved))).all()


def test_most_probable_interpolates_marginals():
    marginals = np.array([[[0.9, 0.1, 0.0], [0.0, 0.4, 0.6]]], np.float32)
    assert most_probable(marginals, (1, 2)).tolist() == [[0, 2]]
    assert most_probable(marginals, (2, 4)).tolist() == [[0, 0, 2, 2]] * 2


def test_mistakes_are_named():
    pixels, _, moved = disc()
    with pytest.raises(StageError, match="needs probabilities") as raised:
        refine(pixels, LabelMap(moved))
    assert "unary: labels" in (raised.value.hint or "")
    with pytest.raises(StageError, match="label map of 5×4 px for an image of 48×48"):
        refine(pixels, LabelMap(np.zeros((4, 5), np.uint8)), unary="labels")
    with pytest.raises(StageError, match="no finite numbers"):
        refine(pixels, LabelMap(moved, np.full((2, 3, 3), np.nan, np.float16)))
    with pytest.raises(StageError, match="too narrow"):
        refine(pixels, soft(moved), bilateral={"srgb": 1e-3})


def test_the_plan_knows_what_it_needs():
    assert DenseCrfConfig.dense_crf
    assert DenseCrfConfig.accepts == ("label-maps", "instances")
    assert DenseCrfConfig().needs_probabilities
    assert not DenseCrfConfig(unary="labels").needs_probabilities


def test_a_missing_backend_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    pixels, _, moved = disc()
    with pytest.raises(StageError, match="cannot be imported") as raised:
        refine(pixels, soft(moved), backend="pydensecrf")
    assert "mdp-platform[crf]" in (raised.value.hint or "")


@pytest.mark.parametrize("unary", ["probabilities", "labels"])
def test_both_backends_agree_on_a_disc(unary):
    pytest.importorskip("pydensecrf.densecrf")
    pixels, _, moved = disc()
    one, other = (refine(pixels, soft(moved), unary=unary, backend=name) for name in ("builtin", "pydensecrf"))
    assert (one != other).mean() <= 0.01


def test_agrees_with_pydensecrf_and_all_21_labels_on_20_photographs(voc_root):
    """At half size, to save time; benchmarks/crf.py shows the same at full size."""
    pytest.importorskip("pydensecrf.densecrf")
    voc, random = voc_root / "VOC2012", np.random.default_rng(0)
    ids = (voc / "ImageSets/Segmentation/val.txt").read_text().split()
    differs, moved = [], []
    for image_id in ids[:: len(ids) // 20][:20]:
        pixels = cv2.resize(read_image(voc / f"JPEGImages/{image_id}.jpg"), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        truth = LabelMap.from_png(voc / f"SegmentationClass/{image_id}.png").values
        small = cv2.resize(np.where(truth == 255, 0, truth), (pixels.shape[1] // 8, pixels.shape[0] // 8), interpolation=0)
        logits = 8 * cv2.GaussianBlur(np.eye(21, dtype=np.float32)[np.roll(small, (1, -1), (0, 1))], (0, 0), 1.5)
        logits += 10 * cv2.GaussianBlur(random.standard_normal(logits.shape, dtype=np.float32), (0, 0), 3)
        odds = np.exp(logits)
        probabilities = (odds / odds.sum(2, keepdims=True)).transpose(2, 0, 1).astype(np.float16)
        prediction = LabelMap(np.zeros(pixels.shape[:2], np.uint8), probabilities)
        ours = refine(pixels, prediction)
        differs.append((ours != refine(pixels, prediction, backend="pydensecrf", label_floor=0)).mean())
        moved.append((ours != refine(pixels, prediction, iterations=0)).mean())
    assert len(differs) == 20
    assert max(differs) <= 0.01
    assert np.mean(moved) > 0.01
