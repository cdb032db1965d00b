"""How a plugin of each kind is given its work: what it learns from, and what it makes of images. One item an image comes out.

An item is a tuple: ``(Instances,)`` of a prior or detector, ``(embedding, labels, masks)`` of a clusterer, ``(LabelMap,)`` of a
segmenter or probe, one ``LabelMap`` for each form of predictions that a refiner accepts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mdp_core.stages.refiner import RefinerConfig
from mdp_core.testing.report import CheckFailedError
from mdp_core.testing.samples import CLASSES, CLUSTERS, Samples

Item = tuple[Any, ...]


class CountError(CheckFailedError):
    """A plugin yielded more or fewer results than there are images."""


@dataclass(frozen=True)
class Fitted:
    """What a training left.

    Attributes:
        folder: The result.
        clusters: Labels of instances are 0..clusters-1, of label maps 0..clusters; of a probe's 0..clusters as well.
    """

    folder: Path
    clusters: int


def fit(kind: str, plugin: Any, samples: Samples, folder: Path, work: Path, model: Path | None) -> int:
    """Lets a plugin learn from samples.

    Args:
        kind: A kind that learns.
        plugin: The instance.
        samples: What it learns from.
        folder: Empty folder for the result.
        work: Folder for resume files.
        model: What a segmenter left, for probes that read one.

    Returns:
        The number of clusters.
    """
    images = samples.images
    if kind == "clusterer":
        rows = [row for row in _all(plugin.embed(images, [s.masks for s in samples]), len(samples)) if len(row)]
        return int(plugin.fit(np.concatenate(rows), folder))
    if kind == "detector":
        plugin.fit(images, [s.clustered for s in samples], CLUSTERS, folder, work)
    elif kind == "segmenter":
        plugin.fit(images, [s.label_map for s in samples], CLUSTERS, folder, work)
    elif kind == "probe":
        plugin.fit(images, [s.truth for s in samples], CLASSES, model, folder, work)
        return CLASSES - 1
    elif kind == "pretrainer":
        plugin.fit(images, [s.masks for s in samples], folder, work)
    return CLUSTERS


def make(kind: str, plugin: Any, samples: Samples, fitted: Fitted | None, model: Path | None) -> list[Item]:
    """Returns what a plugin makes of samples, one item an image.

    Raises:
        CountError: There are more or fewer results than images.
    """
    images, count = samples.images, len(samples)
    folder = fitted.folder if fitted else Path()
    if kind == "prior":
        return [(item,) for item in _all(plugin.mine(images), count)]
    if kind == "clusterer":
        return _cluster(plugin, samples, folder)
    if kind == "probe":
        return [(item,) for item in _all(plugin.predict(folder, model, images), count)]
    if kind != "refiner":
        return [(item,) for item in _all(plugin.predict(folder, images), count)]
    forms = [_all(plugin.refine(images, predictions), count) for predictions in _predictions(plugin.config, samples)]
    return list(zip(*forms, strict=True))


def _predictions(config: RefinerConfig, samples: Samples) -> Iterator[list[Any]]:
    if "instances" in config.accepts:
        yield [s.clustered for s in samples]
    if "label-maps" in config.accepts:
        yield [s.label_map for s in samples]


def _cluster(plugin: Any, samples: Samples, folder: Path) -> list[Item]:
    rows = _all(plugin.embed(samples.images, [s.masks for s in samples]), len(samples))
    items: list[Item] = []
    for sample, row in zip(samples, rows, strict=True):
        labels = plugin.assign(folder, row) if len(row) else np.zeros(0, np.int32)
        items.append((row, labels, sample.masks))
    return items


def _all(results: Iterator[Any], expected: int) -> list[Any]:
    found = []
    for item in results:
        found.append(item)
        if len(found) > expected:
            break
    if len(found) != expected:
        count = f"more than {expected}" if len(found) > expected else str(len(found))
        raise CountError(
            f"it yielded {count} results for {expected} images",
            "yield exactly one result an image, in order: an image in which nothing was found gets an empty one",
        )
    return found
