"""The stand-in for mmcv's compiled operators against literal loops."""

import math
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from mdp_core.api import PluginError
from mdp_mmengine.operators import provide

STAND_IN = provide()

from mmcv.ops import RoIAlign, batched_nms, nms, roi_align  # noqa: E402


def bilinear(feature: np.ndarray, y: float, x: float) -> float:
    height, width = feature.shape
    if y < -1.0 or y > height or x < -1.0 or x > width:
        return 0.0
    y, x = max(y, 0.0), max(x, 0.0)
    y0, x0 = int(y), int(x)
    if y0 >= height - 1:
        y0 = y1 = height - 1
        y = float(y0)
    else:
        y1 = y0 + 1
    if x0 >= width - 1:
        x0 = x1 = width - 1
        x = float(x0)
    else:
        x1 = x0 + 1
    dy, dx = y - y0, x - x0
    top = feature[y0, x0] * (1 - dx) + feature[y0, x1] * dx
    bottom = feature[y1, x0] * (1 - dx) + feature[y1, x1] * dx
    return top * (1 - dy) + bottom * dy


def literal_roi_align(features, rois, size, *, scale, sampling_ratio, aligned):
    """RoIAlign (He et al. 2017) bin by bin; not aligned: no half-pixel shift, boxes at least 1 wide and high."""
    offset = 0.5 if aligned else 0.0
    output = np.zeros((len(rois), features.shape[1], *size))
    for r, (image, *box) in enumerate(rois):
        x0, y0, x1, y1 = (v * scale - offset for v in box)
        width, height = x1 - x0, y1 - y0
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        bin_h, bin_w = height / size[0], width / size[1]
        count_h = sampling_ratio or math.ceil(height / size[0])
        count_w = sampling_ratio or math.ceil(width / size[1])
        for c in range(features.shape[1]):
            for i in range(size[0]):
                for j in range(size[1]):
                    total = 0.0
                    for a in range(count_h):
                        for b in range(count_w):
                            y = y0 + i * bin_h + (a + 0.5) * bin_h / count_h
                            x = x0 + j * bin_w + (b + 0.5) * bin_w / count_w
                            total += bilinear(features[int(image), c], y, x)
                    output[r, c, i, j] = total / max(count_h * count_w, 1)
    return output


ROIS = torch.tensor(
    [[0, 1.3, 2.1, 20.7, 17.9], [1, 0.0, 0.0, 31.9, 31.9], [1, 10.2, 9.1, 10.4, 9.5], [0, -6.0, -3.0, 40.0, 37.0]],
    dtype=torch.float64,
)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align_forward_and_gradient(aligned: bool, sampling_ratio: int) -> None:
    torch.manual_seed(1)
    features = torch.randn(2, 2, 9, 9, dtype=torch.float64, requires_grad=True)

    def pool(x: torch.Tensor) -> torch.Tensor:
        return roi_align(x, ROIS, (3, 2), 0.25, sampling_ratio, "avg", aligned)

    expected = literal_roi_align(
        features.detach().numpy(), ROIS.numpy(), (3, 2), scale=0.25, sampling_ratio=sampling_ratio, aligned=aligned
    )
    np.testing.assert_allclose(pool(features).detach().numpy(), expected, atol=1e-10)
    assert torch.autograd.gradcheck(pool, (features,))


def test_roi_align_module_in_float32_and_bfloat16() -> None:
    torch.manual_seed(2)
    features = torch.randn(2, 3, 9, 9)
    layer = RoIAlign(4, 0.25, 2)
    exact = layer(features, ROIS.float())
    half = features.bfloat16().requires_grad_()
    pooled = layer(half, ROIS.bfloat16().float().bfloat16())
    assert pooled.dtype == torch.bfloat16
    pooled.float().sum().backward()
    assert half.grad is not None
    assert torch.isfinite(half.grad).all()
    reference = layer(features.bfloat16().float(), ROIS.bfloat16().float())
    torch.testing.assert_close(pooled.float(), reference, atol=0.02, rtol=0.02)
    assert exact.shape == (4, 3, 4, 4)


def test_roi_align_without_boxes() -> None:
    features = torch.randn(1, 3, 8, 8, requires_grad=True)
    pooled = roi_align(features, torch.zeros(0, 5), 7, 1.0, 0, "avg", True)
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert features.grad is not None
    assert not features.grad.any()


def literal_nms(boxes, scores, threshold, *, offset=0, score_threshold=0.0, max_num=-1):
    bar = np.float32(score_threshold)  # a score may equal the threshold, and they are compared in float32
    order = [i for i in sorted(range(len(boxes)), key=lambda i: -scores[i]) if not bar or np.float32(scores[i]) > bar]
    kept: list[int] = []
    for i in order:
        x0, y0, x1, y1 = boxes[i]
        for j in kept:
            u0, v0, u1, v1 = boxes[j]
            w, h = min(x1, u1) - max(x0, u0) + offset, min(y1, v1) - max(y0, v0) + offset
            inter = max(w, 0) * max(h, 0)
            union = (x1 - x0 + offset) * (y1 - y0 + offset) + (u1 - u0 + offset) * (v1 - v0 + offset) - inter
            if inter / union > threshold:
                break
        else:
            kept.append(i)
    return kept[:max_num] if max_num > 0 else kept


def random_boxes(seed: int, n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    corner, side = rng.uniform(0, 40, (n, 2)), rng.uniform(3, 25, (n, 2))
    boxes = torch.from_numpy(np.concatenate([corner, corner + side], axis=1).astype(np.float32))
    return boxes, torch.from_numpy(rng.permutation(n).astype(np.float32) / n)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize(("score_threshold", "max_num"), [(0.0, -1), (0.4, -1), (0.2, 5)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nms(offset: int, score_threshold: float, max_num: int, seed: int) -> None:
    boxes, scores = random_boxes(seed)
    expected = literal_nms(
        boxes.tolist(), scores.tolist(), 0.4, offset=offset, score_threshold=score_threshold, max_num=max_num
    )
    dets, kept = nms(boxes, scores, 0.4, offset=offset, score_threshold=score_threshold, max_num=max_num)
    assert kept.tolist() == expected
    torch.testing.assert_close(dets, torch.cat([boxes[kept], scores[kept, None]], dim=1))


@pytest.mark.parametrize("split_thr", [10_000, 10])
def test_batched_nms_keeps_classes_apart(split_thr: int) -> None:
    boxes, scores = random_boxes(5)
    classes = torch.arange(60) % 3
    expected = []
    for c in range(3):
        mine = torch.nonzero(classes == c)[:, 0].tolist()
        expected += [mine[k] for k in literal_nms(boxes[mine].tolist(), scores[mine].tolist(), 0.4)]
    _, kept = batched_nms(boxes, scores, classes, {"type": "nms", "iou_threshold": 0.4, "split_thr": split_thr})
    assert kept.tolist() == sorted(expected, key=lambda i: -float(scores[i]))


def test_nms_without_boxes() -> None:
    dets, kept = nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert dets.shape == (0, 5)
    assert kept.shape == (0,)


@pytest.mark.skipif(not STAND_IN, reason="mmcv is compiled here")
def test_other_operators_say_what_is_missing() -> None:
    from mmcv.ops import soft_nms

    with pytest.raises(PluginError, match="'softnms' needs a compiled mmcv"):
        soft_nms(*random_boxes(0))
    with pytest.raises(PluginError, match="max pooling"):
        roi_align(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), 2, 1.0, 0, "max", True)


def fresh(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, text=True, timeout=300
    )
    return result.stdout.strip()


def test_a_compiled_mmcv_is_used(tmp_path) -> None:
    """A module mmcv._ext that can be imported is left alone."""
    (tmp_path / "_ext.py").write_text("")
    out = fresh(f"""
        import mmcv; mmcv.__path__.append({str(tmp_path)!r})
        from mdp_mmengine.operators import provide
        print(provide()); import mmcv._ext; print(mmcv._ext.__file__)
    """)
    assert out.splitlines() == ["False", str(tmp_path / "_ext.py")]


@pytest.mark.skipif(not STAND_IN, reason="mmcv is compiled here")
def test_the_stand_in_is_a_module_with_a_spec() -> None:
    out = fresh("""
        from mdp_mmengine.operators import provide
        print(provide(), provide())
        import importlib.util, mmcv._ext
        print(importlib.util.find_spec("mmcv._ext").name, hasattr(mmcv._ext, "anything"))
    """)
    assert out.splitlines() == ["True True", "mmcv._ext True"]
