"""MMSegmentation's model configuration from our settings; importing this registers the parts that it names."""

from __future__ import annotations

from typing import Any

from mdp_mmengine.scenes import IGNORE_INDEX
from mdp_mmseg.hard_pixels import HardPixelLoss
from mdp_mmseg.head import DeepLabV3Head
from mdp_mmseg.settings import DeepLabV3Config

OUTPUT_STRIDE = 8
_DEPTH = {"r18": 18, "r50": 50}
_CHANNELS = {"r18": 512, "r50": 2048}
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


def model_config(config: DeepLabV3Config, clusters: int) -> dict[str, Any]:
    """Returns the configuration of an ``EncoderDecoder``: dilated ResNet, DeepLab-v3 head, hard pixel loss.

    Both backbones have output stride 8, by strides (1, 2, 1, 1) and dilations (1, 1, 2, 4), where the first block of a
    dilated layer keeps the dilation of the layer before it, as in torchvision; in a ResNet-18, MMSegmentation dilates only
    the first of a block's two convolutions. The pyramid's rates 12, 24 and 36 belong to that stride. Batch normalisation
    is SyncBN, which the training library turns into BN on one device. ``mm_overrides`` are not merged in here.

    Args:
        config: Settings.
        clusters: Number of clusters C; the network has C + 1 outputs, the first of them background.
    """
    fit = config.fit
    norm = {"type": "SyncBN", "requires_grad": True}
    return {
        "type": "EncoderDecoder",
        "data_preprocessor": {
            "type": "SegDataPreProcessor",
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "bgr_to_rgb": False,
            "size": [fit.size, fit.size],
        },
        "backbone": {
            "type": "ResNet",
            "depth": _DEPTH[config.arch],
            "strides": [1, 2, 1, 1],
            "dilations": [1, 1, 2, 4],
            "contract_dilation": True,
            "out_indices": [3],
            "style": "pytorch",
            "frozen_stages": fit.frozen_stages,
            "norm_cfg": norm,
        },
        "decode_head": {
            "type": DeepLabV3Head.__name__,
            "in_channels": _CHANNELS[config.arch],
            "in_index": 0,
            "channels": 256,
            "dilations": [1, 12, 24, 36],
            "projection_dropout": fit.dropout,
            "num_classes": clusters + 1,
            "out_channels": clusters + 1,
            "norm_cfg": norm,
            "align_corners": False,
            "ignore_index": IGNORE_INDEX,
            "loss_decode": {"type": HardPixelLoss.__name__, "fraction": fit.hard_pixels},
        },
        "train_cfg": {},
        "test_cfg": {"mode": "whole"},
    }
