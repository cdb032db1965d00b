"""The one module that imports mmdet's models: provides the operators first, and registers our own two parts."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import Any

from torch import Tensor

from mdp_mmengine.operators import provide

provide()

with redirect_stdout(
    io.StringIO()
):  # MMDetection prints which of its data sets it does without; its registry imports them anyway
    import mmdet.datasets
import mmdet.models  # noqa: E402, F401  (registers the parts of the models)
from mmcv.cnn import build_norm_layer  # noqa: E402
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor  # noqa: E402
from mmdet.models.roi_heads.shared_heads import ResLayer  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402

__all__ = ["ExactRoIExtractor", "ExtraNormResLayer"]


@MODELS.register_module()
class ExactRoIExtractor(SingleRoIExtractor):
    """mmdet's RoI extractor, in float32 under mixed precision too.

    mmdet rounds the boxes to the type of the features; bfloat16 has 8 significant bits, so that a box at 800 px would
    move by up to 2 px.
    """

    def forward(self, feats: tuple[Tensor, ...], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        """Pools feature maps (N, C, H_l, W_l) at rois (R, 5) into float32 (R, C, h, w)."""
        pooled: Tensor = super().forward(tuple(feature.float() for feature in feats), rois.float(), roi_scale_factor)
        return pooled


@MODELS.register_module()
class ExtraNormResLayer(ResLayer):
    """res5 as the head of a C4 network, followed by one more normalisation (MoCo's ``Res5ROIHeadsExtraNorm``).

    Self-supervised backbones have no fully connected layers that pre-training would have put behind res5; the
    normalisation keeps their features in the range that the fresh heads expect.
    """

    def __init__(self, *, depth: int, stage: int, norm_cfg: dict[str, Any], **settings: Any) -> None:
        super().__init__(depth=depth, stage=stage, norm_cfg=norm_cfg, **settings)
        channels = 64 * 2**stage * (4 if depth >= 50 else 1)
        self.norm = build_norm_layer(norm_cfg, channels)[1]

    def forward(self, features: Tensor) -> Tensor:
        """Maps (R, 1024, 14, 14) to (R, 2048, 7, 7) for a ResNet-50."""
        normalised: Tensor = self.norm(super().forward(features))
        return normalised
