import contextlib
import io
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mdp_core.data.instances import Instances
from mdp_core.errors import DataError
from mdp_core.evaluation.instance_result import InstanceResult
from mdp_core.evaluation.instances import InstanceEvaluation, object_classes

SIZE = (12, 15)
NAMES = ("background", "cat", "dog", "cow")
NUMBERS = ("ap", "ap50", "ap75", "box_ap", "box_ap50", "ar100")


def select(instances, keep, labels=None):
    chosen = instances.select(np.asarray(keep, np.int64))
    return chosen if labels is None else chosen.with_labels([labels[i] for i in keep])


def coco(images, classes, part):
    """Builds pycocotools' object of all images: part 0 = found, 1 = truth with crowds. Identifiers are counted from 1."""
    built = COCO()
    annotations = []
    for number, image in enumerate(images):
        objects = image[0].to_coco(number, first_category=0) if part == 0 else image[1].to_coco(number, first_category=0)
        if part == 1:
            objects += [{**one, "iscrowd": 1} for one in image[2].to_coco(number, first_category=0)]
        annotations += objects
    annotations = [{**one, "id": index + 1} for index, one in enumerate(annotations)]
    built.dataset = {
        "images": [{"id": number, "height": image[1].height, "width": image[1].width} for number, image in enumerate(images)],
        "annotations": annotations,
        "categories": [{"id": index} for index in range(classes)],
    }
    built.createIndex()
    return built


def coco_eval(images, classes, kind):
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco(images, classes, 1), coco(images, classes, 0), kind)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def coco_numbers(images, classes):
    """Returns the numbers of plain pycocotools, as ``summarize`` reads them off; None where it says -1."""
    numbers = {}
    for kind, prefix in (("segm", ""), ("bbox", "box_")):
        evaluated = coco_eval(images, classes, kind).eval
        precision, recall = evaluated["precision"][:, :, :, 0, 2], evaluated["recall"][:, :, 0, 2]
        for name, values in (("ap", precision), ("ap50", precision[0]), ("ap75", precision[5]), ("ar100", recall)):
            numbers[prefix + name] = float(values[values > -1].mean()) if (values > -1).any() else None
    return {name: numbers[name] for name in NUMBERS}


def of_classes(images, class_of_cluster):
    """Gives each found mask the class of its cluster and leaves out those that have none."""
    table = [*class_of_cluster, None]
    changed = []
    for found, truth, crowds in images:
        keep = [i for i in range(len(found)) if table[found.labels[i]] is not None]
        changed.append((select(found, keep, [table[label] for label in found.labels]), truth, crowds))
    return changed


def without_classes(images):
    return [tuple(part.with_labels([0] * len(part)) for part in image) for image in images]


def literal_box_iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = float(width) * float(height)
    areas = [float(box[2] - box[0]) * float(box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)


def literal_single(images, strict):
    """A.4 word for word: keep the mask with the highest score of each image; keep the true object with the largest box IoU to it."""
    nothing = Instances.empty(*SIZE)
    changed = []
    for found, truth, crowds in images:
        if len(found) == 0:
            if strict and len(truth):
                areas = [int(truth.mask(i).sum()) for i in range(len(truth))]
                changed.append((found, select(truth, [areas.index(max(areas))]), nothing))
            continue
        best = next(i for i in range(len(found)) if found.scores[i] == max(found.scores))
        if len(truth):
            overlaps = [literal_box_iou(found.boxes[best], box) for box in truth.boxes]
            changed.append((select(found, [best]), select(truth, [overlaps.index(max(overlaps))]), nothing))
        else:
            changed.append((select(found, [best]), truth, crowds))
    return changed


def rectangles(rng, n, size=SIZE):
    masks = np.zeros((n, *size), bool)
    for mask in masks:
        (y0, y1), (x0, x1) = np.sort(rng.integers(0, size[0] + 1, 2)), np.sort(rng.integers(0, size[1] + 1, 2))
        mask[y0:y1, x0:x1] = rng.random((y1 - y0, x1 - x0)) < 0.9
    return masks


def random_image(rng, clusters, most=5):
    """Makes an image with near misses and hits, doubles, ties, empty masks, unlabelled masks, crowds, and boxes that are not tight."""
    objects = rectangles(rng, int(rng.integers(0, 5)))
    if len(objects) and rng.random() < 0.3:
        objects = np.concatenate([objects, objects[:1]])  # two objects with one mask: equal IoUs
    truth = Instances.from_masks(objects, labels=rng.integers(0, 3, len(objects)))
    crowds = Instances.from_masks(rectangles(rng, int(rng.random() < 0.4)))
    crowds = crowds.with_labels(rng.integers(0, 3, len(crowds)))
    masks = [rectangles(rng, int(rng.integers(0, 3)))]
    labels = list(rng.integers(-1, clusters, len(masks[0])))
    everything, of = np.concatenate([objects, crowds.to_masks()]), [*truth.labels, *crowds.labels]
    for _ in range(int(rng.integers(0, most)) if len(everything) else 0):
        index = int(rng.integers(len(everything)))
        masks.append(everything[index : index + 1] ^ (rng.random((1, *SIZE)) < rng.choice([0.0, 0.01, 0.05, 0.15])))
        labels.append(min(of[index], clusters - 1) if rng.random() < 0.7 else int(rng.integers(-1, clusters)))
    found = np.concatenate(masks)
    found[rng.random(len(found)) < 0.05] = False
    tight = Instances.from_masks(found, scores=np.round(rng.random(len(found)), 1), labels=labels)
    moved = tight.boxes + rng.choice([0.0, 0.0, 0.5, 1.0], tight.boxes.shape).astype(np.float32)
    return Instances(*SIZE, tight.masks, np.maximum(moved, np.tile(moved[:, :2], 2)), tight.scores, tight.labels), truth, crowds


def evaluated(images, clusters, **options):
    evaluation = InstanceEvaluation(NAMES, clusters)
    for number in np.random.default_rng(len(images)).permutation(len(images)):  # the order plays no part
        evaluation.add(f"{number:04d}", *images[number])
    return evaluation.result(split="val", seed=1, **options)


def agree(scores, images, classes):
    expected = coco_numbers(images, classes)
    for name, value in expected.items():
        assert getattr(scores, name) == (None if value is None else pytest.approx(value, abs=1e-9)), name
    assert scores.images == len(images)
    assert scores.objects == sum(len(truth) for _, truth, _ in images)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 6))
def test_all_settings_have_the_numbers_of_pycocotools(seed, clusters):
    rng = np.random.default_rng(seed)
    images = [random_image(rng, clusters) for _ in range(int(rng.integers(1, 7)))]
    if not any(len(truth) for _, truth, _ in images):
        with pytest.raises(DataError, match="has a true object"):
            evaluated(images, clusters)
        return
    result = evaluated(images, clusters)
    for name, scores in result.settings.items():
        setting, classes = name.split(".")
        kept = images if setting == "multi" else literal_single(images, setting == "single_strict")
        if classes == "aware":
            agree(scores, of_classes(kept, result.class_of_cluster), 3)
        else:
            agree(scores, without_classes(kept), 1)
    clustered = any((found.labels >= 0).any() for found, _, _ in images)
    assert set(result.settings) == {
        f"{setting}.{classes}"
        for setting in ("multi", "single", "single_strict")
        for classes in ("agnostic", *(["aware"] if clustered else []))
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 5))
def test_the_matching_is_the_best_of_all_for_what_pycocotools_calls_right(seed, clusters):
    rng = np.random.default_rng(seed)
    images = [random_image(rng, clusters) for _ in range(5)]
    images[0] = (images[0][1].with_labels([0] * len(images[0][1])), *images[0][1:])
    if not any(len(truth) for _, truth, _ in images):
        return
    counts = np.zeros((clusters, 3), int)
    clustered = [(found.select(found.labels >= 0), truth, crowds) for found, truth, crowds in images]
    plain = without_classes(clustered)
    truths, founds = coco(plain, 1, 1), coco(plain, 1, 0)
    classes = dict(enumerate((label for _, truth, crowds in images for label in [*truth.labels, *crowds.labels]), start=1))
    labels = dict(enumerate((label for found, _, _ in clustered for label in found.labels), start=1))
    for image in [one for one in coco_eval(plain, 1, "segm").evalImgs[: len(images)] if one is not None]:
        for found, true in zip(image["dtIds"], image["dtMatches"][0], strict=True):
            if true and not truths.anns[int(true)]["iscrowd"]:
                counts[labels[found], classes[int(true)]] += 1
    assert len(founds.anns) == len(labels)
    best = max(
        sum(counts[cluster, index] for index, cluster in enumerate(order) if cluster < clusters)
        for order in itertools.permutations(range(max(clusters, 3)), 3)
    )
    result = evaluated(images, clusters)
    assert (result.evidence, result.agreeing) == (counts.sum(), best)
    chosen = [index for index in result.class_of_cluster if index is not None]
    assert len(set(chosen)) == len(chosen)
    assert sum(counts[cluster, index] for cluster, index in enumerate(result.class_of_cluster) if index is not None) == best


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**9))
def test_a_matching_made_elsewhere_may_give_two_clusters_one_class(seed):
    rng = np.random.default_rng(seed)
    images = [random_image(rng, 4) for _ in range(4)]
    images.append(tuple(Instances.from_masks(rectangles(rng, 1), labels=[label]) for label in (3, 2, 1)))
    ready = (2, None, 0, 2)
    result = evaluated(images, 4, class_of_cluster=ready, matching_words="majority, objects, split train")
    agree(result.settings["multi.aware"], of_classes(images, ready), 3)
    assert result.class_of_cluster == ready


@pytest.mark.parametrize("clusters", [1, 2])
def test_a_hundred_detections_count_in_an_image_and_class(clusters):
    rng = np.random.default_rng(3)
    images = []
    for _ in range(3):
        objects = rectangles(rng, 120)
        labels = rng.integers(0, clusters, 120)
        noisy = np.concatenate([objects, objects]) ^ (rng.random((240, *SIZE)) < 0.03)
        scores = np.round(rng.random(240), 1)
        found = Instances.from_masks(noisy, scores=scores, labels=np.tile(labels, 2))
        images.append((found, Instances.from_masks(objects, labels=labels), Instances.empty(*SIZE)))
    result = evaluated(images, clusters)
    multi = result.settings["multi.aware"]
    assert multi.detections == 300 * clusters
    assert result.settings["multi.agnostic"].detections == 300
    assert result.class_of_cluster == tuple(range(clusters))
    agree(multi, of_classes(images, result.class_of_cluster), 3)
    agree(result.settings["multi.agnostic"], without_classes(images), 1)


def moved(rng, masks):
    """Moves masks by a few pixels and eats a strip off some."""
    changed = np.stack([np.roll(mask, tuple(rng.integers(-6, 7, 2)), (0, 1)) for mask in masks])
    for mask in changed:
        if rng.random() < 0.3:
            mask[: int(rng.integers(mask.shape[0]))] = False
    return changed


@pytest.mark.skipif("COCO_ROOT" not in os.environ, reason="needs COCO_ROOT")
def test_real_images_have_the_numbers_of_pycocotools():
    file = Path(os.environ["COCO_ROOT"]) / "annotations" / "instances_val2017.json"
    data = json.loads(file.read_text())
    index = {category["id"]: number for number, category in enumerate(sorted(data["categories"], key=lambda one: one["id"]))}
    rng = np.random.default_rng(0)
    names = ("background", *(str(number) for number in index))
    evaluation, images = InstanceEvaluation(names, len(index)), []
    for image in sorted(data["images"], key=lambda one: one["id"]):
        mine = [
            {**one, "category_id": index[one["category_id"]]} for one in data["annotations"] if one["image_id"] == image["id"]
        ]
        size = image["height"], image["width"]
        truth = Instances.from_coco([one for one in mine if not one["iscrowd"]], *size, first_category=0)
        crowds = Instances.from_coco([one for one in mine if one["iscrowd"]], *size, first_category=0)
        masks, labels = np.concatenate([truth.to_masks(), crowds.to_masks()]), np.concatenate([truth.labels, crowds.labels])
        if len(masks):
            masks = np.concatenate([masks, moved(rng, masks), moved(rng, masks)])
            labels = np.concatenate([labels, labels, rng.permutation(labels)])
        found = Instances.from_masks(masks, scores=np.round(rng.random(len(masks)), 2), labels=labels)
        images.append((found, truth, crowds))
        evaluation.add(f"{image['id']:012d}", found, truth, crowds)
    result = evaluation.result(split="val2017", seed=0)
    assert sum(len(crowds) for _, _, crowds in images) >= 3
    assert 0.1 < result.settings["multi.aware"].ap < 0.9
    agree(result.settings["multi.aware"], of_classes(images, result.class_of_cluster), len(index))
    agree(result.settings["multi.agnostic"], without_classes(images), 1)
    single = literal_single(images, strict=False)
    agree(result.settings["single.aware"], of_classes(single, result.class_of_cluster), len(index))
    agree(result.settings["single.agnostic"], without_classes(single), 1)


def one_object(*, found=1, label=0, score=0.9, size=(4, 4)):
    mask = np.zeros((1, *size), bool)
    mask[0, :2] = True
    truth = Instances.from_masks(mask, labels=[1])
    return Instances.from_masks(np.repeat(mask, found, 0), scores=[score] * found, labels=[label] * found), truth


def test_misses_cost_nothing_in_single_and_all_in_strict():
    evaluation = InstanceEvaluation(NAMES, 2)
    evaluation.add("a", *one_object())
    evaluation.add("b", *one_object(found=0))
    result = evaluation.result(split="val", seed=0)
    assert result.undetected == 1
    assert [result.settings[f"{name}.aware"].ar100 for name in ("multi", "single", "single_strict")] == [0.5, 1.0, 0.5]
    assert [result.settings[f"{name}.aware"].images for name in ("multi", "single", "single_strict")] == [2, 1, 2]
    assert result.class_of_cluster == (1, None)
    assert "images without a detection are left out" in result.protocol.single


def test_what_is_found_in_an_image_without_objects_is_wrong():
    for setting in ("multi", "single"):
        evaluation = InstanceEvaluation(NAMES, 1)
        evaluation.add("a", *one_object(score=0.5))
        evaluation.add("b", one_object(score=0.9)[0], Instances.empty(4, 4))
        result = evaluation.result(split="val", seed=0)
        assert result.settings[f"{setting}.agnostic"].ap50 == pytest.approx(0.5)
        assert result.objectless == 1


def test_a_crowd_region_alone_makes_nothing_wrong():
    evaluation = InstanceEvaluation(NAMES, 1)
    evaluation.add("a", *one_object(score=0.5))
    found, truth = one_object(score=0.9)
    evaluation.add("b", found, Instances.empty(4, 4), truth)
    scores = evaluation.result(split="val", seed=0).settings
    assert [scores[name].ap50 for name in ("multi.agnostic", "single.agnostic")] == [pytest.approx(1.0), pytest.approx(1.0)]


def test_empty_masks_are_wrong_or_missed():
    empty = Instances.from_masks(np.zeros((1, 4, 4), bool), labels=[0])
    evaluation = InstanceEvaluation(NAMES, 1)
    evaluation.add("a", empty, empty)
    evaluation.add("b", *one_object())
    scores = evaluation.result(split="val", seed=0).settings["multi.agnostic"]
    assert (scores.objects, scores.detections, scores.ar100) == (2, 2, 0.5)


def test_what_is_not_clustered_has_no_part_in_class_aware_scores():
    found, truth = one_object(found=2, label=-1)
    evaluation = InstanceEvaluation(NAMES, 3)
    evaluation.add("a", found, truth)
    result = evaluation.result(split="val", seed=0)
    assert set(result.settings) == {"multi.agnostic", "single.agnostic", "single_strict.agnostic"}
    assert (result.unclustered, result.protocol.matching) == (2, "none")
    assert not any("matching" in use for use in result.protocol.ground_truth)
    evaluation.add("b", found.with_labels([-1, 0]), truth)
    result = evaluation.result(split="val", seed=0)
    assert (result.settings["multi.aware"].detections, result.settings["multi.agnostic"].detections) == (1, 4)


def test_without_clusters_labels_mean_nothing():
    evaluation = InstanceEvaluation(NAMES, 0)
    evaluation.add("a", *one_object(label=5))
    result = evaluation.result(split="val", seed=0)
    assert set(result.settings) == {"multi.agnostic", "single.agnostic", "single_strict.agnostic"}
    assert (result.settings["multi.agnostic"].ap, result.class_of_cluster) == (pytest.approx(1.0), ())


def test_more_clusters_than_classes_leave_the_rest_unmatched():
    evaluation = InstanceEvaluation(("background", "cat", "dog"), 3)
    for number in range(3):
        for cluster in range(3):
            if number <= cluster:  # cluster 2 is right most often, cluster 0 once
                evaluation.add(f"{number}-{cluster}", *one_object(label=cluster))
    result = evaluation.result(split="val", seed=0)
    assert result.class_of_cluster == (None, None, 1)
    assert (result.evidence, result.agreeing) == (6, 3)
    assert result.settings["multi.aware"].detections == 3


def test_each_use_of_ground_truth_is_named():
    evaluation = InstanceEvaluation(NAMES, 1)
    evaluation.add("a", *one_object())
    protocol = evaluation.result(split="val", seed=7, labels_used=["prior: it cheats"]).protocol
    assert protocol.ground_truth[0] == "prior: it cheats"
    assert protocol.ground_truth[1].startswith("matching clusters with classes (hungarian, detections")
    assert protocol.ground_truth[2:] == ("choosing the object of the single-object setting (split val)", "scoring (split val)")
    assert (protocol.split, protocol.images, protocol.seed) == ("val", 1, 7)
    protocol = evaluation.result(split="val", seed=7, class_of_cluster=[1], matching_words="objects, split train").protocol
    assert protocol.matching == "objects, split train"


def test_bad_input_is_an_error_and_counts_nothing():
    evaluation = InstanceEvaluation(NAMES, 2)
    found, truth = one_object()
    bad = [
        ((found, Instances.empty(3, 4)), "img: the masks are 4×4 px, the true objects 4×3 px"),
        ((found, truth, Instances.empty(4, 5)), "the crowd regions 5×4 px"),
        ((found.with_labels([2]), truth), r"the masks have label 2, but labels are -1\.\.1"),
        ((found.with_labels([-2]), truth), r"the masks have label -2, but labels are -1\.\.1"),
        ((found, truth.with_labels([3])), r"the true objects have label 3, but labels are 0\.\.2"),
        ((found, truth.with_labels([-1])), "the true objects have label -1"),
        ((found, truth, truth.with_labels([5])), "the crowd regions have label 5"),
        ((one_object(score=float("nan"))[0], truth), "a score is not a finite number"),
        ((Instances(4, 4, found.masks, found.boxes * np.float32("nan"), found.scores, found.labels), truth), "a box is not"),
    ]
    for image, message in bad:
        with pytest.raises(DataError, match=message):
            evaluation.add("img", *image)
    assert evaluation.images == 0
    evaluation.add("img", found, truth)
    with pytest.raises(DataError, match="img: the image was evaluated before"):
        evaluation.add("img", found, truth)


def test_no_true_object_at_all_is_an_error():
    evaluation = InstanceEvaluation(NAMES, 2)
    with pytest.raises(DataError, match="split val: none of its 0 images has a true object"):
        evaluation.result(split="val", seed=0)
    evaluation.add("a", one_object()[0], Instances.empty(4, 4), one_object()[1])
    with pytest.raises(DataError, match="none of its 1 images"):
        evaluation.result(split="val", seed=0)


def test_arguments_that_do_not_belong_together():
    evaluation = InstanceEvaluation(NAMES, 2)
    evaluation.add("a", *one_object())
    with pytest.raises(ValueError, match="come together"):
        evaluation.result(split="val", seed=0, class_of_cluster=[0, 1])
    for wrong in ([0], [0, 3], [0, -1]):
        with pytest.raises(ValueError, match="class_of_cluster"):
            evaluation.result(split="val", seed=0, class_of_cluster=wrong, matching_words="by hand")
    with pytest.raises(ValueError, match="cannot be compared"):
        InstanceEvaluation(("background",), 2)


def test_object_classes_of_a_matching_of_label_maps():
    assert object_classes((0, 2, None, 0, 1)) == (1, None, None, 0)


def test_json_round_trip():
    rng = np.random.default_rng(5)
    result = evaluated([random_image(rng, 3) for _ in range(6)], 3)
    data = json.loads(json.dumps(result.to_json()))
    assert InstanceResult.from_json(data) == result
    assert data["settings"]["multi.aware"]["ap50"] == result.metrics()["multi.aware.ap50"]
    assert set(result.metrics()) == {f"{name}.{number}" for name in result.settings for number in NUMBERS}
    for broken in ({**data, "format": 0}, {**data, "extra": 1}, {"format": 1}, {**data, "settings": {"multi.aware": {}}}):
        with pytest.raises(DataError, match="instance result"):
            InstanceResult.from_json(broken)
