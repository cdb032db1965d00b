"""How fast the ``instances`` protocol is beside plain pycocotools, with the same numbers, and how much memory both take.

The images are made up: 480 × 640 pixels, 3 to 12 objects of 80 classes, 100 detections (near misses of the objects, and anything). pycocotools
(``COCOeval.evaluate`` and ``accumulate`` with its default settings) computes one thing, mask AP with classes; ``InstanceEvaluation`` computes
that and the other settings, and the AP of boxes, in the time that is printed. Each side runs in a process of its own, on one thread.

    python benchmarks/average_precision.py --images 20000 --reference-images 2000

pycocotools keeps some megabytes an image, so it can be given the first ``--reference-images`` alone; the ratio is measured on those.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

HEIGHT, WIDTH, CLASSES, DETECTIONS, SCENES = 480, 640, 80, 100, 64


def blob(rng: np.random.Generator, centre: np.ndarray, radius: float, shape: np.ndarray) -> list[float]:
    """Returns a polygon, x0 y0 x1 y1 and so on."""
    angles = np.linspace(0, 2 * np.pi, len(shape), endpoint=False)
    reach = radius * shape * (1 + 0.05 * rng.standard_normal(len(shape)))
    points = centre + np.stack([reach * np.cos(angles), reach * np.sin(angles)], axis=1)
    return [float(value) for value in np.clip(points, 0, (WIDTH - 1, HEIGHT - 1)).ravel()]


def make_scenes() -> list[tuple[Any, Any]]:
    """Makes the true objects and the detections that the images repeat, with new scores in each."""
    from mdp_core.data.instances import Instances

    rng, scenes = np.random.default_rng(0), []
    for _ in range(SCENES):
        objects = int(rng.integers(3, 13))
        centres, radii = rng.random((objects, 2)) * (WIDTH, HEIGHT), np.exp(rng.uniform(np.log(12), np.log(150), objects))
        shapes = 1 + 0.2 * rng.standard_normal((objects, 24))
        labels = rng.integers(0, CLASSES, objects)
        truth = [blob(rng, *one) for one in zip(centres, radii, shapes, strict=True)]
        found, of = [], []
        for _ in range(DETECTIONS):
            index = int(rng.integers(objects))
            if rng.random() < 0.5:
                shift, scale = rng.normal(0, 0.12 * radii[index], 2), np.exp(rng.normal(0, 0.12))
                found.append(blob(rng, centres[index] + shift, radii[index] * scale, shapes[index]))
                of.append(labels[index] if rng.random() < 0.7 else rng.integers(CLASSES))
            else:
                centre, radius = rng.random(2) * (WIDTH, HEIGHT), np.exp(rng.uniform(np.log(12), np.log(150)))
                found.append(blob(rng, centre, radius, 1 + 0.2 * rng.standard_normal(24)))
                of.append(rng.integers(CLASSES))
        pair = []
        for polygons, classes in ((found, of), (truth, labels)):
            annotations = [
                {"segmentation": [one], "category_id": int(index)} for one, index in zip(polygons, classes, strict=True)
            ]
            pair.append(Instances.from_coco(annotations, HEIGHT, WIDTH, first_category=0))
        scenes.append((pair[0], pair[1]))
    return scenes


def images(count: int) -> Iterator[tuple[Any, Any]]:
    """Yields detections and true objects of each image."""
    from dataclasses import replace

    scenes, rng = make_scenes(), np.random.default_rng(1)
    for index in range(count):
        found, truth = scenes[index % SCENES]
        yield replace(found, scores=rng.random(DETECTIONS, dtype=np.float32)), truth


def ours(count: int) -> dict[str, float]:
    """Runs ``InstanceEvaluation``; making the images is not timed."""
    from mdp_core.evaluation.instances import InstanceEvaluation

    evaluation = InstanceEvaluation(("background", *(str(index) for index in range(CLASSES))), CLASSES)
    seconds = 0.0
    for index, (found, truth) in enumerate(images(count)):
        started = time.perf_counter()
        evaluation.add(f"{index:06d}", found, truth)
        seconds += time.perf_counter() - started
    started = time.perf_counter()
    result = evaluation.result(split="made", seed=0, class_of_cluster=range(CLASSES), matching_words="given")
    numbers = result.metrics()
    return {
        "seconds": seconds + time.perf_counter() - started,
        "ap": numbers["multi.aware.ap"],
        "ap50": numbers["multi.aware.ap50"],
        "ar100": numbers["multi.aware.ar100"],
    }


def pycocotools(count: int) -> dict[str, float]:
    """Runs ``COCOeval``; making its objects is not timed."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    sides: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for index, pair in enumerate(images(count)):
        for side, instances in zip(sides, pair, strict=True):
            side.extend(instances.to_coco(index, first_id=len(side) + 1, first_category=0))
    datasets = []
    with contextlib.redirect_stdout(io.StringIO()):
        for annotations in sides:
            dataset = COCO()
            dataset.dataset = {
                "images": [{"id": index, "height": HEIGHT, "width": WIDTH} for index in range(count)],
                "annotations": annotations,
                "categories": [{"id": index} for index in range(CLASSES)],
            }
            dataset.createIndex()
            datasets.append(dataset)
        started = time.perf_counter()
        evaluation = COCOeval(datasets[1], datasets[0], "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        seconds = time.perf_counter() - started
    precision, recall = evaluation.eval["precision"][:, :, :, 0, 2], evaluation.eval["recall"][:, :, 0, 2]
    return {
        "seconds": seconds,
        "ap": float(precision[precision > -1].mean()),
        "ap50": float(precision[0][precision[0] > -1].mean()),
        "ar100": float(recall[recall > -1].mean()),
    }


def child(side: Callable[[int], dict[str, float]], count: int, answers: Any) -> None:
    answers.put({**side(count), "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20})


def measured(side: Callable[[int], dict[str, float]], count: int) -> dict[str, float]:
    """Runs one side in a process of its own and returns its times, numbers and peak memory (GiB)."""
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=child, args=(side, count, answers))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(
            f"{side.__name__} ended with {process.exitcode}; with fewer --reference-images pycocotools needs less memory"
        )
    answer: dict[str, float] = answers.get()
    print(
        f"{side.__name__:12} {count:7} images  {answer['seconds']:8.1f} s  peak {answer['gib']:5.2f} GiB  AP {answer['ap']:.12f}",
        flush=True,
    )
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="how many images")
    parser.add_argument("--reference-images", type=int, help="how many of them pycocotools is given; all by default")
    arguments = parser.parse_args()
    shared = min(arguments.reference_images or arguments.images, arguments.images)
    reference, same = measured(pycocotools, shared), measured(ours, shared)
    every = same if shared == arguments.images else measured(ours, arguments.images)
    differences = [abs(reference[name] - same[name]) for name in ("ap", "ap50", "ar100")]
    print(f"\nlargest difference of AP, AP50 and AR100: {max(differences):.1e}")
    print(
        f"ratio on {shared} images: {reference['seconds'] / same['seconds']:.1f}× as fast, pycocotools computing one setting, ours all"
    )
    if shared < arguments.images:
        scaled = reference["seconds"] * arguments.images / shared
        print(f"ratio on {arguments.images} images, pycocotools' time scaled up: {scaled / every['seconds']:.1f}×")
    print(f"peak memory for {arguments.images} images: {every['gib']:.2f} GiB (with Python and its libraries)")


if __name__ == "__main__":
    main()
