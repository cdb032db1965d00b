"""The images that plugins are checked with: eight small scenes, and odd ones. They are drawn from a seed; nothing lies on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdp_core.data.images import ImageRecord, Images, Pixels
from mdp_core.data.instances import Instances
from mdp_core.data.label_map import LabelMap

CLUSTERS = 3
"""Clusters of the masks that detectors and segmenters are given."""
CLASSES = 4
"""True classes that probes are given, background among them."""
_SIZES = ((48, 64), (48, 64), (48, 64), (64, 48), (64, 48), (56, 56), (40, 72), (48, 64))
_COLOURS = np.array([[214, 60, 52], [48, 168, 72], [52, 84, 208]])


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with all that a stage may be given beside it.

    Attributes:
        record: Its record; ``path`` is None.
        pixels: uint8 (H, W, 3).
        masks: Masks as a prior finds them: labels -1.
        clustered: Masks as a detector predicts them: labels 0..2, scores.
        label_map: 0..3, with probabilities at half the size.
        truth: True classes 0..3 with a rim of ignored pixels; None where an image has none.
    """

    record: ImageRecord
    pixels: Pixels
    masks: Instances
    clustered: Instances
    label_map: LabelMap
    truth: LabelMap | None

    def digest(self) -> str:
        """Returns what changes where somebody writes into any of it."""
        parts: list[NDArray[np.generic] | None] = [self.pixels, self.label_map.values, self.label_map.probabilities]
        parts += [self.truth.values if self.truth else None]
        for found in (self.masks, self.clustered):
            parts += [found.boxes, found.scores, found.labels]
        return hashlib.sha256(b"|".join(b"" if part is None else part.tobytes() for part in parts)).hexdigest()


class Samples(Sequence[Sample]):
    """Images in an order, and what stages are given of them.

    Args:
        samples: The images.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = tuple(samples)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)

    @property
    def images(self) -> Images:
        """The images as a plugin sees them; each read gives the same array, as a dataset may that keeps its images."""
        pixels = {sample.record.id: sample.pixels for sample in self}
        return Images([sample.record for sample in self], lambda record: pixels[record.id])

    def at(self, indices: Sequence[int]) -> Samples:
        """Returns the images at ``indices``, in that order."""
        return Samples([self._samples[i] for i in indices])


def scenes() -> Samples:
    """Returns eight scenes of 48×64 pixels or nearby: three objects in each on a soft background, none in the last; four of a size."""
    return Samples([_scene(index, *size) for index, size in enumerate(_SIZES)])


def sample_images() -> Images:
    """Returns the images that every plugin is checked with, ``scene-0`` to ``scene-7``, for those who need files beside them."""
    return scenes().images


def tiny() -> Samples:
    """Returns images of one pixel, one row and one column, and of a few pixels."""
    sizes = ((1, 1), (1, 37), (37, 1), (2, 3), (9, 7))
    return Samples([_whole(f"{h}x{w}", _noise(h, w)) for h, w in sizes])


def plain() -> Samples:
    """Returns images in which there is nothing to see: black, white, one grey, a grey gradient, noise."""
    flat = {name: np.full((48, 64, 3), value, np.uint8) for name, value in (("black", 0), ("white", 255), ("grey", 127))}
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 48, axis=0).repeat(3, axis=2)
    return Samples([_whole(name, pixels) for name, pixels in {**flat, "grey-ramp": ramp, "noise": _noise(48, 64)}.items()])


def large() -> Samples:
    """Returns two ribbons of 2,500 × 40 pixels and one scene of 900 × 1,200."""
    return Samples([_whole("ribbon-wide", _noise(40, 2500)), _whole("ribbon-tall", _noise(2500, 40)), _scene(90, 900, 1200)])


def _noise(height: int, width: int) -> Pixels:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), np.uint8)


def _whole(name: str, pixels: Pixels) -> Sample:
    """Returns an odd image, given to stages with one mask: its left half, or all of it where it has no halves."""
    height, width = pixels.shape[:2]
    mask = np.zeros((1, height, width), np.bool_)
    mask[:, :, : max(1, width // 2)] = True
    return _sample(name, pixels, mask, np.array([1]))


def _scene(index: int, height: int, width: int) -> Sample:
    rng = np.random.default_rng([17, index])
    rows, columns = np.mgrid[0:height, 0:width]
    soft = 120 + 40 * np.sin(rows / height * 2 + rng.uniform(0, 6)) + 30 * np.cos(columns / width * 3)
    pixels = np.repeat(soft[..., None], 3, axis=2) + rng.normal(0, 4, (height, width, 3))
    masks, labels = [], []
    for slot in range(0 if index == len(_SIZES) - 1 else 3):
        label = int(rng.integers(CLUSTERS))
        x = width * (slot + 0.5) / 3
        y, radius = height * rng.uniform(0.35, 0.65), min(width / 7, height / 4) * rng.uniform(0.8, 1.0)
        down, across = np.abs(rows - y), np.abs(columns - x)
        inside = (np.hypot(down, across) <= radius, np.maximum(down, across) <= radius, down + across <= radius)[label]
        pixels[inside] = _COLOURS[label] + rng.normal(0, 6, (int(inside.sum()), 3))
        masks.append(inside)
        labels.append(label)
    bitmaps = np.stack(masks) if masks else np.zeros((0, height, width), np.bool_)
    return _sample(f"scene-{index}", np.clip(pixels, 0, 255).astype(np.uint8), bitmaps, np.array(labels, np.int32))


def _sample(name: str, pixels: Pixels, masks: NDArray[np.bool_], labels: NDArray[np.int_]) -> Sample:
    height, width = pixels.shape[:2]
    scores = np.linspace(0.95, 0.6, len(masks)) if len(masks) else np.zeros(0)
    found = Instances.from_masks(masks, scores=scores)
    clustered = found.with_labels(labels)
    values = LabelMap.paint(clustered).values
    small = values[::2, ::2]
    certain = np.where(np.arange(CLUSTERS + 1)[:, None, None] == small, 0.85, 0.05)
    truth = values.copy()
    truth[0, :] = LabelMap(truth).ignore
    return Sample(
        ImageRecord(name, height, width),
        pixels,
        found,
        clustered,
        LabelMap(values, certain.astype(np.float16)),
        None if name.endswith("-6") else LabelMap(truth),
    )
