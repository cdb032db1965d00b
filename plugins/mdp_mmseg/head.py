"""The head of DeepLab-v3 as torchvision and the authors build it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from mdp_mmengine.models import quiet
from mdp_mmengine.operators import provide


@contextmanager
def _quietly() -> Iterator[None]:
    """Keeps importing MMSegmentation from warning of compiled operators that nothing here uses."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


quiet()  # before MMDetection, which MMSegmentation imports, makes a talkative logger
provide()  # and before it concludes that there are no operators
with _quietly():
    from mmcv.cnn import ConvModule
    from mmseg.models.decode_heads import ASPPHead
    from mmseg.registry import MODELS


@MODELS.register_module()
class DeepLabV3Head(ASPPHead):  # type: ignore[misc]
    """Pyramid pooling, 1×1 projection, dropout, 3×3 convolution, 1×1 classifier.

    MMSegmentation's ``ASPPHead`` goes from the pyramid straight to one 3×3 convolution (three times the weights) and has
    no projection; only that part is replaced here.

    Args:
        projection_dropout: Dropout after the projection.
        kwargs: As for ``ASPPHead``.
    """

    def __init__(self, projection_dropout: float = 0.5, **kwargs: Any) -> None:
        super().__init__(dropout_ratio=0.0, **kwargs)
        parts = {"conv_cfg": self.conv_cfg, "norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        self.bottleneck = nn.Sequential(
            ConvModule((len(self.dilations) + 1) * self.channels, self.channels, 1, **parts),
            nn.Dropout(projection_dropout),
            ConvModule(self.channels, self.channels, 3, padding=1, **parts),
        )
