"""The picture of a training: losses and retrieval over iterations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mdp_pretrain.log import Point
from mdp_pretrain.settings import DinoConfig


def smooth(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Returns the mean over the last ``width`` values at each place; over fewer at the start."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def draw_curve(points: list[Point], config: DinoConfig, path: Path) -> None:
    """Draws the losses, their value where nothing is learnt (ln of the number of prototypes), and the retrieval curve."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    losses, found = figure.subplots(1, 2)
    steps = [point.iteration for point in points]
    width = max(1, len(points) // 100)
    curves = [("class token", [point.class_loss for point in points], config.head.prototypes, "tab:blue")]
    if config.train.patch_loss:
        curves.append(("patch tokens", [point.patch_loss for point in points], config.head.patch_prototypes, "tab:orange"))
    for name, values, prototypes, colour in curves:
        losses.plot(steps, smooth(np.array(values), width), color=colour, label=name)
        losses.axhline(math.log(prototypes), color=colour, linestyle=":", linewidth=1)
    losses.set(title="loss (dotted: nothing learnt)", xlabel="iteration")
    losses.legend()
    probed = [point for point in points if point.retrieval is not None]
    found.plot([point.iteration for point in probed], [100 * (point.retrieval or 0.0) for point in probed], "o-", markersize=3)
    found.set(title="second view finds its first, % (no labels used)", xlabel="iteration")
    found.set_ylim(bottom=0)
    FigureCanvasAgg(figure).print_png(str(path))
