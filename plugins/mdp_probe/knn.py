"""Probe ``knn``: retrieval of true classes for the segmenter's regions (the protocol of MaskContrast)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from mdp_core.api import Images, LabelMap, Pixels, Probe, StageError, WeightsError
from mdp_mmengine.prediction import each, stack
from mdp_probe.frozen import Features, SegmenterFeatures, load_features, load_segmenter
from mdp_probe.regions import Regions, majority_class, neighbours_class, region_means
from mdp_probe.settings import SEGMENTER, KnnConfig
from mdp_probe.truth import KnownTruth

__all__ = ["KnnProbe"]

_FILE = "memory.safetensors"
_CHUNK = 256


class KnnProbe(Probe[KnnConfig]):
    """Each label that the segmenter predicts in an image, background left out, is one region.

    A region is described by the mean of its pixels' features. Regions of training images get the true class of most of their
    pixels; a region of another image takes the class of the most similar ones (cosine). What the segmenter calls background
    stays background; a region whose neighbours are truly background becomes background.
    """

    Config = KnnConfig

    def fit(
        self, images: Images, truth: Sequence[LabelMap | None], classes: int, model: Path | None, folder: Path, work: Path
    ) -> None:
        """Describes the regions of all images with ground truth; goes on after the last 256 images that were done.

        Raises:
            StageError: No image has ground truth, ground truth does not fit its image, or there is not one region.
        """
        known = KnownTruth(truth)
        networks = self._networks(model)
        parts = []
        for start in range(0, len(known), _CHUNK):
            part = work / f"part_{start:08d}.safetensors"
            if not part.is_file():
                chunk = slice(start, start + _CHUNK)
                temporary = part.with_suffix(".tmp")
                save_file(self._described(images.subset(known.indices[chunk]), known[chunk], classes, networks), temporary)
                os.replace(temporary, part)
            parts.append(load_file(part))
            self.context.listener.progress(min(start + _CHUNK, len(known)), len(known), {})
        memory = {name: torch.cat([part[name] for part in parts]) for name in ("means", "classes")}
        if not len(memory["classes"]):
            raise StageError(
                f"the segmenter predicts nothing but background on all {len(known)} training images: there are no regions",
                hint="train the segmenter longer, or look at the label maps that it learned from (the stage before it)",
            )
        save_file(memory, folder / _FILE)
        self.context.listener.note("regions", f"{len(memory['classes'])} of {len(known)} images")

    def predict(self, folder: Path, model: Path | None, images: Images) -> Iterator[LabelMap]:
        """Yields one label map an image, in order and at the image's own size."""
        if not (folder / _FILE).is_file():
            raise WeightsError(f"{folder}: no {_FILE}", hint="this is not the folder of a trained knn probe")
        networks = self._networks(model)
        stored = load_file(folder / _FILE)
        memory, classes = stored["means"].to(self.context.device), stored["classes"].numpy()
        for labels, regions in self._regions(images, networks):
            class_of = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
            if len(regions.labels):
                class_of[regions.labels.cpu().numpy()] = neighbours_class(regions.means, memory, classes, self.config.k)
            yield LabelMap.from_array(class_of[labels], clusters=int(classes.max()))

    def _networks(self, model: Path | None) -> tuple[SegmenterFeatures, Features]:
        segmenter = load_segmenter(model, self.context)
        own = self.config.features == SEGMENTER
        return segmenter, segmenter if own else load_features(self.config, model, self.context)

    def _described(
        self, images: Images, truth: Sequence[LabelMap], classes: int, networks: tuple[SegmenterFeatures, Features]
    ) -> dict[str, torch.Tensor]:
        """Returns ``means`` float32 (n, D) and ``classes`` int64 (n,) of all regions whose true class is known."""
        means: list[torch.Tensor] = [torch.zeros(0, networks[1].width)]
        found: list[int] = []
        for record, true, (labels, regions) in zip(images.records, truth, self._regions(images, networks), strict=True):
            if true.size != labels.shape:
                raise StageError(
                    f"{record.id}: its ground truth is {true.size[1]}×{true.size[0]} px, the image {record.width}×{record.height}"
                )
            known = true.values[true.values != true.ignore]
            if int(known.max(initial=0)) >= classes:
                raise StageError(
                    f"{record.id}: its ground truth holds class {known.max()}, but there are {classes} (0..{classes - 1})"
                )
            for label, mean in zip(regions.labels.tolist(), regions.means.cpu(), strict=True):
                true_class = majority_class(labels == label, true.values, true.ignore)
                if true_class is not None:
                    means.append(mean[None])
                    found.append(true_class)
        return {"means": torch.cat(means), "classes": torch.tensor(found, dtype=torch.int64)}

    def _regions(
        self, images: Images, networks: tuple[SegmenterFeatures, Features]
    ) -> Iterator[tuple[NDArray[np.int64], Regions]]:
        """Yields each image's prediction by the segmenter, (H, W) at its own size, and the regions of it."""
        segmenter, features = networks

        @torch.inference_mode()
        def work(pixels: Sequence[Pixels], sizes: Sequence[tuple[int, int]]) -> list[tuple[NDArray[np.int64], Regions]]:
            inputs = stack(pixels)
            own = segmenter(inputs)
            described = own if features is segmenter else features(inputs)
            results = []
            for logits, one, size in zip(segmenter.logits(own), described, sizes, strict=True):
                large = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
                labels = large.argmax(0)
                results.append((labels.cpu().numpy(), region_means(one, labels)))
            return results

        return each(images, self.config.images, work)
