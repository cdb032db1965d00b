"""Detector mask-rcnn: learns instance masks from clustered masks (paper §3.2, Eq. 3) with MMDetection's Mask R-CNN."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mdp_core.api import Detector, Images, Instances, StageError
from mdp_mmdet import mmdet_parts  # noqa: F401  (first: provides mmcv's operators)
from mdp_mmdet.configs import model_config, predict_overrides
from mdp_mmdet.samples import TrainingSamples, prediction_sample, usable
from mdp_mmdet.settings import FitSettings, MaskRCNNConfig
from mdp_mmengine.training import Samples, Schedule, train
from mdp_mmengine.weights import Published, load_published, load_resnet, publish

__all__ = ["MaskRCNN"]

Sample = dict[str, Any]


class MaskRCNN(Detector[MaskRCNNConfig]):
    """Mask R-CNN with a ResNet-50-C4 (the paper's), ResNet-50-FPN or ResNet-18-FPN backbone."""

    Config = MaskRCNNConfig

    def fit(self, images: Images, instances: Sequence[Instances], clusters: int, folder: Path, work: Path) -> None:
        """Trains; images without a usable instance are left out, as in Detectron2.

        Raises:
            StageError: No image has a usable instance, or a label is not below ``clusters``, or the loss is not finite.
        """
        fit = self.config.fit
        kept = [usable(of_image) for of_image in instances]
        indices = [index for index, of_image in enumerate(kept) if len(of_image)]
        self._check(kept, indices, clusters)
        config = model_config(self.config, clusters)
        model = train(
            config,
            "mmdet",
            Samples(len(indices), TrainingSamples(images, kept, indices, fit).load),
            _schedule(fit),
            context=self.context,
            folder=folder,
            work=work,
            prepare=self._prepare,
        )
        publish(folder, model, Published("mmdet", config, {"clusters": clusters}, parts="mdp_mmdet.mmdet_parts"))

    def predict(self, folder: Path, images: Images) -> Iterator[Instances]:
        """Predicts; masks that are empty at the image's own size are dropped.

        The batch size changes no result: only images of equal padded size run together.
        """
        settings = self.config.predict
        model, _ = load_published(folder, self.context.device, predict_overrides(self.config.arch, settings))

        def read(index: int) -> Sample:
            return prediction_sample(images.read(index), settings.side, settings.max_side)

        for window in _windows(read, len(images), 4 * settings.batch):
            results: dict[int, Instances] = {}
            for group in _groups([sample["inputs"].shape for sample in window], settings.batch):
                results |= zip(group, _predict_batch(model, [window[i] for i in group]), strict=True)
            yield from (results[i] for i in range(len(window)))

    def _prepare(self, model: Any) -> None:
        # mmdet draws the mask logits' weights with std sqrt(2 / clusters), so with few clusters the mask loss starts far
        # above ln 2 (9 was seen with two clusters and 256 channels). Detectron2's std of 0.001 starts it at ln 2.
        nn.init.normal_(model.roi_head.mask_head.conv_logits.weight, std=0.001)
        load_resnet(_resnet_parts(model), self.config.fit.init, self.context.listener)

    def _check(self, kept: Sequence[Instances], indices: Sequence[int], clusters: int) -> None:
        if not indices:
            raise StageError(
                f"none of the {len(kept)} training images has a mask that one can learn from",
                hint="look at the prior's masks (empty ones and boxes under 1 px do not count), and whether they are clustered",
            )
        top = max(int(kept[index].labels.max()) for index in indices)
        if top >= clusters:
            raise StageError(f"a mask has cluster label {top}, but there are {clusters} clusters (0..{clusters - 1})")
        if left_out := len(kept) - len(indices):
            self.context.listener.note("images without masks", f"{left_out} of {len(kept)}, left out of training")


def _schedule(fit: FitSettings) -> Schedule:
    return Schedule(
        iterations=fit.iters,
        batch=fit.batch,
        lr=fit.lr,
        momentum=fit.momentum,
        weight_decay=fit.weight_decay,
        steps=fit.schedule_steps,
        gamma=fit.gamma,
        warmup=fit.warmup,
        clip_grad=fit.clip_grad,
        amp=fit.amp,
        checkpoint_every=fit.checkpoint_every,
        workers=fit.workers,
        precise_bn=fit.precise_bn,
    )


def _resnet_parts(model: Any) -> dict[str, nn.Module]:
    parts: dict[str, nn.Module] = {"": model.backbone}
    if model.roi_head.with_shared_head:
        parts["layer4."] = model.roi_head.shared_head.layer4
    return parts


def _windows(read: Any, count: int, size: int) -> Iterator[list[Sample]]:
    """Yields samples 0..count-1 in lists of ``size``, and reads the next list while the caller works on this one."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        starts = iter(range(0, count, size))

        def submit(start: int) -> list[Any]:
            return [pool.submit(read, index) for index in range(start, min(start + size, count))]

        ahead = [submit(start) for start in islice(starts, 1)]
        while ahead:
            current = ahead.pop()
            ahead = [submit(start) for start in islice(starts, 1)]
            yield [future.result() for future in current]


def _groups(shapes: Sequence[tuple[int, ...]], batch: int, divisor: int = 32) -> Iterator[list[int]]:
    """Yields indices of images whose sizes agree once padded to multiples of ``divisor``, at most ``batch`` together."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, (_, height, width) in enumerate(shapes):
        by_size.setdefault((-(-height // divisor), -(-width // divisor)), []).append(index)
    for members in by_size.values():
        yield from (members[start : start + batch] for start in range(0, len(members), batch))


@torch.inference_mode()
def _predict_batch(model: Any, samples: list[Sample]) -> list[Instances]:
    batch = {name: [sample[name] for sample in samples] for name in ("inputs", "data_samples")}
    return [_to_instances(result) for result in model.test_step(batch)]


def _to_instances(result: Any) -> Instances:
    height, width = result.ori_shape
    found = result.pred_instances
    order = torch.argsort(found.scores, descending=True, stable=True)
    masks = found.masks[order].cpu().numpy().astype(np.bool_).reshape(-1, height, width)
    scores = found.scores[order].clamp(0, 1).cpu().numpy()
    labels = found.labels[order].cpu().numpy()
    boxes = found.bboxes[order].cpu().numpy().clip(0, [width, height] * 2)
    keep = masks.any(axis=(1, 2))
    return Instances.from_masks(masks[keep], scores=scores[keep], labels=labels[keep], boxes=boxes[keep])
