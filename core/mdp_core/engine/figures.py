"""Curves of a metric over a swept setting, as in the paper's Figures 3 to 5; PNG or SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdp_core.data.storage import replacing
from mdp_core.engine.compare import Comparison, Curve, curves, find_setting, is_share, short_name
from mdp_core.engine.store import disk_errors
from mdp_core.errors import RunError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, which colour-blind people tell apart; their yellow, too light on white, left out."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", ":", "-.")
_PANEL = (4.2, 3.2)
_DPI = 200


def check_figure_path(path: Path) -> Path:
    """Returns the path of a figure that is to be drawn.

    Raises:
        RunError: Its ending is neither .png nor .svg.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise RunError(f"{path}: a figure is a .png or a .svg file", hint=f"write -o {path.with_suffix('.png').name}")
    return path


def draw_curves(comparison: Comparison, setting: str, path: Path) -> None:
    """Draws each metric of a comparison over a setting, one panel a metric, and writes the same bytes for the same runs.

    Args:
        comparison: The runs; ``comparison.metrics`` are drawn.
        setting: A numeric setting, with dots.
        path: Where to; the ending says PNG or SVG.

    Raises:
        RunError: The setting is no number or does not vary, or the file is neither PNG nor SVG.
    """
    check_figure_path(path)
    if not comparison.metrics:
        raise RunError("the runs have no metrics: there is nothing to draw")
    lines = {metric: curves(comparison, setting, metric) for metric in comparison.metrics}
    import matplotlib as mpl
    from matplotlib.figure import Figure

    name = short_name(find_setting(setting, comparison.groups))
    style: Any = {"svg.hashsalt": "mdp", "font.family": "DejaVu Sans", "font.size": 9.0, "axes.unicode_minus": True}
    with mpl.rc_context({**mpl.rcParamsDefault, **style}):
        figure = Figure(figsize=(_PANEL[0] * len(lines), _PANEL[1]), layout="constrained")
        panels = figure.subplots(1, len(lines), squeeze=False)[0]
        labels = list(dict.fromkeys(line.label for found in lines.values() for line in found))
        for axes, (metric, found) in zip(panels, lines.items(), strict=True):
            _draw(axes, name, metric, found, labels)
        _legend(figure, panels)
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
        with disk_errors(path), replacing(path.absolute()) as temporary:
            figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=_DPI, metadata=metadata)


def _draw(axes: Axes, setting: str, metric: str, lines: Sequence[Curve], labels: Sequence[str]) -> None:
    """Draws one panel; a line looks the same in each."""
    scale = 100.0 if is_share(metric) else 1.0
    for line in lines:
        index = labels.index(line.label)
        colour = _COLOURS[index % len(_COLOURS)]
        x = [value for value, _ in line.points]
        mean = [scale * s.mean for _, s in line.points]
        std = [scale * (s.std or 0.0) for _, s in line.points]
        dashes = _DASHES[index // len(_COLOURS) % len(_DASHES)]
        marker = _MARKERS[index % len(_MARKERS)]
        axes.plot(x, mean, dashes, marker=marker, markersize=4, linewidth=1.5, color=colour, label=line.label)
        if any(std):
            low, high = ([m + side * s for m, s in zip(mean, std, strict=True)] for side in (-1, 1))
            axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.set_xlabel(setting)
    axes.set_ylabel(f"{metric} (%)" if scale > 1 else metric)
    axes.set_title(_seeds(lines), fontsize=8, color="0.35")
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _seeds(lines: Sequence[Curve]) -> str:
    """Says what line and band are."""
    counts = sorted({s.n for line in lines for _, s in line.points})
    if counts == [1]:
        return "one run a point"
    shown = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"mean of {shown} seeds, band: ± 1 std"


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    found = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    labels = list(found)
    if len(labels) > 1:
        columns = 1 if max(map(len, labels)) > 30 else min(3, len(labels))
        figure.legend(list(found.values()), labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
