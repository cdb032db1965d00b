"""Figures: what is drawn is what was computed, the same bytes each time, and nothing else than PNG and SVG."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdp_core.engine.compare import Comparison, compare
from mdp_core.engine.figures import draw_curves
from mdp_core.engine.record import RunRecord
from mdp_core.errors import RunError

VALUES = {(0.2, 0.5): (0.30, 0.34), (0.2, 0.9): (0.40, 0.44), (0.4, 0.5): (0.50, 0.58), (0.4, 0.9): (0.42, 0.42)}


@pytest.fixture
def swept(tmp_path: Path) -> Comparison:
    """Two values of topk, two of the threshold, two seeds."""
    runs = []
    for (topk, threshold), scores in VALUES.items():
        for seed, score in enumerate(scores):
            folder = tmp_path / "runs" / f"x-{topk}-{threshold}-{seed}"
            folder.mkdir(parents=True)
            prior = {"kind": "prior", "use": "dino", "topk": topk}
            refiner = {"kind": "refiner", "use": "confidence", "threshold": threshold}
            resolved = {"seed": seed, "pipeline": {"prior": prior, "refiner": refiner}}
            metrics = {"refiner.miou": score, "detector.loss": 1 - score}
            runs.append(RunRecord(folder, "x", seed, "x.yaml", [], resolved, {}, status="finished", metrics=metrics))
    return compare(runs, metrics=["miou", "detector.loss"])


def ys(svg: str, colour: str) -> list[float]:
    """Heights of the points of the line of a colour, in the order of the axis, first panel first."""
    found = re.findall(rf'<path d="([^"]*)"[^>]*style="fill: none; stroke: {colour}; stroke-width: 1.5', svg)
    return [float(y) for path in found for _, y in re.findall(r"[ML] (\S+) (\S+)", path)]


def test_points_lie_where_the_means_are(swept: Comparison, tmp_path: Path) -> None:
    draw_curves(swept, "refiner.threshold", tmp_path / "c.svg")
    svg = (tmp_path / "c.svg").read_text()
    means = {key: float(np.mean(scores)) for key, scores in VALUES.items()}
    heights = [*ys(svg, "#0072b2")[:2], *ys(svg, "#d55e00")[:2]]
    wanted = [means[0.2, 0.5], means[0.2, 0.9], means[0.4, 0.5], means[0.4, 0.9]]
    slope, offset = np.polyfit(wanted, heights, 1)
    assert slope < 0, "pictures grow downwards"
    assert np.allclose(np.array(wanted) * slope + offset, heights, atol=1e-3)


def test_the_same_runs_give_the_same_bytes(swept: Comparison, tmp_path: Path) -> None:
    for suffix in ("svg", "png"):
        draw_curves(swept, "refiner.threshold", tmp_path / f"a.{suffix}")
        draw_curves(swept, "pipeline.refiner.threshold", tmp_path / f"b.{suffix}")
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert "<dc:date>" not in (tmp_path / "a.svg").read_text()


def test_a_png_shows_lines_and_bands(swept: Comparison, tmp_path: Path) -> None:
    draw_curves(swept, "refiner.threshold", tmp_path / "c.PNG")
    pixels = np.asarray(Image.open(tmp_path / "c.PNG").convert("RGB")).reshape(-1, 3)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        band = np.round(255 - 0.18 * (255 - np.array(colour)))
        assert (pixels == colour).all(axis=1).sum() > 500
        assert (np.abs(pixels - band) <= 1).all(axis=1).sum() > 1000


def test_other_formats(swept: Comparison, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a figure is a \.png or a \.svg file"):
        draw_curves(swept, "refiner.threshold", tmp_path / "c.pdf")
