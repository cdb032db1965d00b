"""Contact sheets: images by stages, and what lies in each cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from mdp_core.data.images import Pixels
from mdp_core.data.instances import Instances
from mdp_core.report.layout import (
    GAP,
    INK,
    LEGEND_LINE,
    MARGIN,
    QUIET,
    RULE,
    cell_height,
    draw_legend,
    fit_text,
    font,
    legend_lines,
    paste,
)
from mdp_core.report.overlay import label_colour, outline, scale, scale_mask

_TITLE = 40
_HEADER = 30
_CAPTION = 22
_ROW_GAP = 14
_ROOM = 0.08
"""Room around a mask's box, as a share of the box's longer side."""


@dataclass(frozen=True)
class ClusterGroup:
    """What a cluster sheet shows of one cluster.

    Attributes:
        cluster: Its number in label maps, 1..C.
        masks: How many masks it has.
        crops: Some of them, best first, each uint8 (h, w, 3) as ``mask_crop`` makes them.
        name: What to write beside the number, for example the class that it was matched with.
        colour: Label whose colour it has, so that it agrees with other pictures; 0: its own number's.
    """

    cluster: int
    masks: int
    crops: Sequence[Pixels]
    name: str = ""
    colour: int = 0

    @property
    def header(self) -> str:
        """For example ``cluster 3 · 41 masks``."""
        masks = f"{self.masks} mask{'' if self.masks == 1 else 's'}"
        return " · ".join(part for part in (f"cluster {self.cluster}", masks, self.name) if part)


def contact_sheet(
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Pixels | None]]],
    *,
    cell_width: int = 260,
    title: str = "",
    legend: Sequence[tuple[int, str]] = (),
) -> Pixels:
    """Draws a grid: a row an image with its id above, a column a stage with its name on top.

    Args:
        columns: Names of the columns.
        rows: For each image its id and a picture per column, uint8 (h, w, 3) RGB of any size, or None where the stage has nothing.
        cell_width: Width of all cells in pixels; their height follows the pictures'.
        title: A heading.
        legend: (label, name) pairs to explain the colours with.

    Returns:
        uint8 (H, W, 3) RGB, for ``layout.to_png``.

    Raises:
        ValueError: There is no column, or a row has not one picture a column.
    """
    if not columns or any(len(pictures) != len(columns) for _, pictures in rows):
        raise ValueError(f"each row of a contact sheet has one picture for each of its {len(columns)} columns")
    height = cell_height((picture for _, pictures in rows for picture in pictures), cell_width)
    inner = len(columns) * (cell_width + GAP) - GAP
    key = legend_lines(legend, inner)
    top = MARGIN + (_TITLE if title else 0)
    bottom = top + _HEADER + len(rows) * (_CAPTION + height + _ROW_GAP)
    sheet, draw = _blank(inner, bottom + len(key) * LEGEND_LINE + (GAP if key else 0), title)
    for column, name in enumerate(columns):
        text = fit_text(name, cell_width, font(17))
        draw.text((MARGIN + column * (cell_width + GAP), top + 11), text, font=font(17), fill=INK, anchor="lm")
    draw.line((MARGIN, top + _HEADER - 4, MARGIN + inner - 1, top + _HEADER - 4), fill=RULE)
    for row, (image_id, pictures) in enumerate(rows):
        y = top + _HEADER + row * (_CAPTION + height + _ROW_GAP)
        draw.text((MARGIN, y + _CAPTION // 2), fit_text(image_id, inner, font(13)), font=font(13), fill=QUIET, anchor="lm")
        for column, picture in enumerate(pictures):
            paste(sheet, picture, (MARGIN + column * (cell_width + GAP), y + _CAPTION), cell_width, height)
    draw_legend(sheet, key, MARGIN, bottom + GAP)
    return np.array(sheet)


def cluster_sheet(groups: Sequence[ClusterGroup], *, crops: int = 10, cell: int = 144, title: str = "") -> Pixels:
    """Draws for each cluster a header and a row of its masks, cut out.

    Args:
        groups: The clusters, in order.
        crops: Most crops shown of a cluster.
        cell: Side of all cells in pixels.
        title: A heading.

    Returns:
        uint8 (H, W, 3) RGB, for ``layout.to_png``.

    Raises:
        ValueError: There is no cluster, or ``crops`` < 1.
    """
    if not groups or crops < 1:
        raise ValueError("a cluster sheet shows one cluster or more, and one crop or more of each")
    inner = crops * (cell + GAP) - GAP
    heights = [_HEADER + (cell + 2 * GAP if group.crops else GAP) for group in groups]
    y = MARGIN + (_TITLE if title else 0)
    sheet, draw = _blank(inner, y + sum(heights) - GAP, title)
    for group, height in zip(groups, heights, strict=True):
        draw.rounded_rectangle((MARGIN, y + 5, MARGIN + 15, y + 20), radius=4, fill=label_colour(group.colour or group.cluster))
        text = fit_text(group.header, inner - 26, font(17))
        draw.text((MARGIN + 26, y + 12), text, font=font(17), fill=INK, anchor="lm")
        for index, crop in enumerate(group.crops[:crops]):
            paste(sheet, crop, (MARGIN + index * (cell + GAP), y + _HEADER), cell, cell)
        y += height
    return np.array(sheet)


def mask_crop(image: Pixels, instances: Instances, index: int, *, cluster: int | None = None, side: int = 160) -> Pixels:
    """Cuts one mask out to its box, as square as the image allows, with all that is not the mask faded to grey.

    Args:
        image: uint8 (H, W, 3) RGB.
        instances: Its masks.
        index: Which one.
        cluster: Its cluster's number in label maps, 1..C, for the colour of the outline; by default from its label.
        side: Longer side of the picture in pixels; small masks are enlarged to it, so that all outlines look alike.

    Returns:
        uint8 (h, w, 3) RGB.

    Raises:
        ValueError: The sizes differ.
    """
    if image.shape[:2] != instances.size:
        raise ValueError(f"an image of {image.shape[:2]} and masks of {instances.size} (height, width) do not belong together")
    x0, y0, x1, y1 = (float(side) for side in instances.boxes[index])
    around = max(x1 - x0, y1 - y0) * (1 + 2 * _ROOM)
    columns, rows = _window((x0 + x1) / 2, around, instances.width), _window((y0 + y1) / 2, around, instances.height)
    crop, mask = image[rows, columns], instances.mask(index)[rows, columns]
    picture = scale(crop, max(1, round(side * min(1.0, crop.shape[1] / crop.shape[0]))), enlarge=True)
    mask = scale_mask(mask, picture.shape[0], picture.shape[1])
    grey = picture[~mask].mean(axis=1, keepdims=True)
    picture[~mask] = np.rint(0.3 * grey + 0.7 * 255).astype(np.uint8)
    value = cluster if cluster is not None else max(int(instances.labels[index]), 0) + 1
    outline(picture, mask, label_colour(value), 2)
    return picture


def _window(centre: float, side: float, size: int) -> slice:
    """Returns ``side`` pixels around ``centre``, moved to lie within ``size`` where possible."""
    length = min(max(1, round(side)), size)
    start = min(max(round(centre - length / 2), 0), size - length)
    return slice(start, start + length)


def _blank(inner: int, bottom: int, title: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("RGB", (inner + 2 * MARGIN, bottom + MARGIN - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN + 11), fit_text(title, inner, font(24)), font=font(24), fill=INK, anchor="lm")
    return sheet, draw
