"""Runs MMDetection where mmcv was installed without its compiled operators.

``mmdet`` imports ``mmcv.ops``, which imports the extension module ``mmcv._ext`` by name and asserts that every operator
it may ever want exists. mmcv has no wheels for today's torch, and compiling takes half an hour, yet Mask R-CNN needs
three operators, and torchvision ships all three:

    nms                  torchvision.ops.nms
    roi_align_forward    torch.ops.torchvision.roi_align
    roi_align_backward   torch.ops.torchvision._roi_align_backward

``provide()`` puts a module ``mmcv._ext`` with these three into ``sys.modules``; every other operator in it raises a clear
error when it is called. Where a compiled mmcv is installed, ``provide()`` leaves it alone. Call it before anything imports
``mmcv.ops`` or ``mmdet``, which MMSegmentation does too (``mdp_mmdet.mmdet_parts`` and ``mdp_mmseg.head`` call it).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

import mmcv
import torch
import torchvision

from mdp_core.api import PluginError

__all__ = ["provide"]

_NAME = "mmcv._ext"


def provide() -> bool:
    """Makes ``mmcv._ext`` importable.

    Returns:
        True where torchvision's operators stand in, False where mmcv is compiled.
    """
    if _NAME in sys.modules:
        return isinstance(sys.modules[_NAME], _StandIn)
    if importlib.util.find_spec(_NAME) is not None:
        return False
    module = _StandIn(_NAME, __doc__)
    module.__spec__ = ModuleSpec(_NAME, None, origin=__file__)  # environment reports look it up
    sys.modules[_NAME] = module
    mmcv._ext = module
    return True


class _StandIn(ModuleType):
    """A module that has every name: three operators, and functions that say what is missing."""

    nms: Callable[..., torch.Tensor]
    roi_align_forward: Callable[..., None]
    roi_align_backward: Callable[..., None]

    def __init__(self, name: str, doc: str | None) -> None:
        super().__init__(name, doc)
        self.nms = _nms
        self.roi_align_forward = _roi_align_forward
        self.roi_align_backward = _roi_align_backward
        self.get_compiler_version = lambda: "not compiled (torchvision's operators)"
        self.get_compiling_cuda_version = lambda: "not compiled (torchvision's operators)"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_args: object, **_kwargs: object) -> NoReturn:
            raise PluginError(
                f"the operator '{name}' needs a compiled mmcv",
                hint="only nms and RoIAlign (avg) run without one; install mmcv with MMCV_WITH_OPS=1, or change mm_overrides",
            )

        return missing


def _nms(boxes: torch.Tensor, scores: torch.Tensor, *, iou_threshold: float, offset: int) -> torch.Tensor:
    """Indices kept, best first. With offset 1 a box covers its last pixel: x1 and y1 move out by one."""
    boxes = boxes.float()
    if offset:
        boxes = boxes + boxes.new_tensor([0.0, 0.0, offset, offset])
    return torchvision.ops.nms(boxes, scores.float(), iou_threshold)


def _roi_align_forward(
    features: torch.Tensor,
    rois: torch.Tensor,
    output: torch.Tensor,
    argmax_y: torch.Tensor,
    argmax_x: torch.Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fills ``output``, (R, C, h, w), from features (N, C, H, W) and rois (R, 5): image, x0, y0, x1, y1."""
    _average_only(pool_mode)
    compute = _compute_type(features)
    pooled = torch.ops.torchvision.roi_align(
        features.to(compute), rois.to(compute), spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
    )
    output.copy_(pooled)


def _roi_align_backward(
    grad_output: torch.Tensor,
    rois: torch.Tensor,
    argmax_y: torch.Tensor,
    argmax_x: torch.Tensor,
    grad_input: torch.Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fills ``grad_input``, (N, C, H, W), from the gradient of the pooled features."""
    _average_only(pool_mode)
    compute = _compute_type(grad_output)
    grad = torch.ops.torchvision._roi_align_backward(
        grad_output.to(compute),
        rois.to(compute),
        spatial_scale,
        aligned_height,
        aligned_width,
        *grad_input.shape,
        sampling_ratio,
        aligned,
    )
    grad_input.copy_(grad)


def _compute_type(tensor: torch.Tensor) -> torch.dtype:
    """Half precision is computed in float32: torchvision's kernels do not take bfloat16."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _average_only(pool_mode: int) -> None:
    if pool_mode != 1:
        raise PluginError(
            "RoIAlign with max pooling needs a compiled mmcv", hint="use pool_mode: avg, the usual one, or compile mmcv"
        )
