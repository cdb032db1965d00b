"""The one module that imports mmdet's models: provides the operators first, and registers our own part."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mdp_mmdet.operators import provide

provide()

import mmdet.models  # noqa: E402, F401  (registers the parts of the models)
from mmcv.cnn import build_norm_layer  # noqa: E402
from mmdet.models.roi_heads.shared_heads import ResLayer  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402

__all__ = ["ExtraNormResLayer"]


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
