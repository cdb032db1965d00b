"""Mask R-CNN as an MMDetection model configuration, built from the settings and the configurations that mmdet ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mmdet
from mmengine.config import Config

from mdp_core.api import StageError
from mdp_mmdet.settings import Arch, MaskRCNNConfig, PredictSettings
from mdp_mmengine.models import merge, plain

__all__ = ["model_config", "predict_overrides"]

_BASE: dict[Arch, str] = {
    "r50-c4": "mask-rcnn_r50-caffe-c4.py",
    "r50-fpn": "mask-rcnn_r50_fpn.py",
    "r18-fpn": "mask-rcnn_r50_fpn.py",
}
_MEAN_RGB, _STD_RGB = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def model_config(settings: MaskRCNNConfig, clusters: int) -> dict[str, Any]:
    """Returns the model's configuration: JSON values, which MMDetection builds.

    Differences from what mmdet ships: RGB input with ImageNet mean and standard deviation; the normalisation, freezing,
    anchors and sample counts of the settings; no download of weights; for C4 strides in the 3×3 convolutions (as in
    MoCo's, torchvision's and timm's ResNet) and a normalisation after res5 (He et al. 2020, "extra norm").

    Args:
        settings: The detector's settings.
        clusters: Number of classes C ≥ 1.
    """
    fit = settings.fit
    config = _shipped(settings.arch)
    config["data_preprocessor"] |= {"mean": _MEAN_RGB, "std": _STD_RGB, "bgr_to_rgb": False}
    norm = {
        "norm_cfg": {"type": "SyncBN" if fit.norm == "syncbn" else "BN", "requires_grad": fit.norm != "frozen"},
        "norm_eval": fit.norm == "frozen",
        "style": "pytorch",
    }
    config["backbone"] |= {**norm, "frozen_stages": fit.frozen, "init_cfg": None}
    roi_head = config["roi_head"]
    if settings.arch == "r50-c4":
        config["backbone"]["frozen_stages"] = min(fit.frozen, 3)  # res5 lies in the head
        roi_head["shared_head"] |= {"type": "ExtraNormResLayer", **norm}
    else:
        _set_fpn(config, settings)
    for extractor in ("bbox_roi_extractor", "mask_roi_extractor"):
        if roi_head[extractor] is not None:  # C4 shares one
            roi_head[extractor]["type"] = "ExactRoIExtractor"
    anchors = config["rpn_head"]["anchor_generator"]
    anchors["scales"] = [scale * settings.anchor_scale / 8 for scale in anchors["scales"]]
    for head in ("bbox_head", "mask_head"):
        roi_head[head]["num_classes"] = clusters
    train = config["train_cfg"]
    train["rpn"]["sampler"]["num"] = fit.rpn_samples
    train["rcnn"]["sampler"]["num"] = fit.rcnn_samples
    if fit.proposals is not None:
        train["rpn_proposal"] |= _proposals(train["rpn_proposal"], fit.proposals)
    return merge(config, fit.mm_overrides)


def predict_overrides(arch: Arch, predict: PredictSettings) -> dict[str, Any]:
    """Returns the part of a model's configuration that the ``predict`` settings decide, to be merged into it."""
    return {
        "test_cfg": {
            "rpn": _proposals(_shipped(arch)["test_cfg"]["rpn"], predict.proposals),
            "rcnn": {
                "score_thr": predict.score_threshold,
                "nms": {"iou_threshold": predict.nms},
                "max_per_img": predict.max_per_image,
            },
        }
    }


def _set_fpn(config: dict[str, Any], settings: MaskRCNNConfig) -> None:
    small = settings.arch == "r18-fpn"
    channels = settings.fpn_channels or (128 if small else 256)
    roi_head = config["roi_head"]
    if small:
        config["backbone"]["depth"] = 18
        config["neck"]["in_channels"] = [64, 128, 256, 512]
    config["neck"]["out_channels"] = channels
    config["rpn_head"] |= {"in_channels": channels, "feat_channels": channels}
    roi_head["bbox_head"] |= {"in_channels": channels, "fc_out_channels": 4 * channels}
    roi_head["mask_head"] |= {"in_channels": channels, "conv_out_channels": channels}
    if settings.fit.norm != "frozen":
        group_norm = {"type": "GN", "num_groups": 32}
        config["neck"]["norm_cfg"] = group_norm
        roi_head["mask_head"]["norm_cfg"] = group_norm
    for extractor in ("bbox_roi_extractor", "mask_roi_extractor"):
        roi_head[extractor]["out_channels"] = channels
        roi_head[extractor]["roi_layer"]["sampling_ratio"] = 2 if small else 0


def _proposals(shipped: dict[str, Any], kept: int) -> dict[str, int]:
    """Numbers before and after the RPN's NMS, in the proportion of the shipped configuration."""
    return {"max_per_img": kept, "nms_pre": kept * shipped["nms_pre"] // shipped["max_per_img"]}


def _shipped(arch: Arch) -> dict[str, Any]:
    path = Path(mmdet.__file__).parent / ".mim" / "configs" / "_base_" / "models" / _BASE[arch]
    if not path.is_file():
        raise StageError(f"{path}: this installation of mmdet lacks its configurations", hint="reinstall onedl-mmdetection")
    return plain(Config.fromfile(path).model.to_dict())
