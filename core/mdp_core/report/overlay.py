"""Overlays: an image with labels or masks over it, tinted and outlined."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from mdp_core.data.images import Pixels
from mdp_core.data.instances import Bitmap, Instances
from mdp_core.data.label_map import LabelMap, palette

Colour = tuple[int, int, int]
TINT = 0.45
"""Share of the label's colour in a region's tint."""
PALE = 0.7
"""Share of white in ignored pixels."""
_RIM: Colour = (24, 24, 28)


def overlay(image: Pixels, labels: LabelMap | Instances, *, width: int | None = None, enlarge: bool = False) -> Pixels:
    """Draws labels over an image: each region gets a tint and an outline, bright with a dark rim, seen on any background.

    Label v has the colour ``label_colour(v)``; an instance that of the label that ``LabelMap.paint`` gives it, or, where it has no
    cluster yet, of its place in the image counted from 1. Background stays as it is, ignored pixels turn pale. Where
    instances overlap, the most confident one lies on top.

    Args:
        image: uint8 (H, W, 3) RGB.
        labels: Labels or masks of this image, of the same size.
        width: Width of the picture in pixels: a wider image is scaled down to it, a narrower one is left alone.
        enlarge: Also scale a narrower one up to ``width``.

    Returns:
        uint8 (h, w, 3) RGB.

    Raises:
        ValueError: The sizes differ.
    """
    if image.shape[:2] != labels.size:
        raise ValueError(f"an image of {image.shape[:2]} and labels of {labels.size} (height, width) do not belong together")
    picture = scale(image, width, enlarge=enlarge)
    height, width = picture.shape[:2]
    if isinstance(labels, LabelMap):
        ignored = scale_mask(labels.values == labels.ignore, height, width)
        picture[ignored] = _mixed(picture[ignored], (255, 255, 255), PALE)
        regions = _label_regions(labels)
    else:
        regions = _instance_regions(labels)
    for mask, value in regions:
        draw_region(picture, scale_mask(mask, height, width), label_colour(value))
    return picture


def draw_region(picture: Pixels, mask: Bitmap, colour: Colour) -> None:
    """Tints and outlines one region, in place.

    Args:
        picture: uint8 (h, w, 3) RGB.
        mask: bool (h, w).
        colour: RGB of the tint; the outline is a lighter shade of it.
    """
    inside = _mixed(picture[mask], colour, TINT)
    line = max(1, round(max(picture.shape[:2]) / 130))
    outline(picture, mask, _RIM, line + 2)
    picture[mask] = inside  # the rim stays outside
    red, green, blue = (round(0.45 * level + 0.55 * 255) for level in colour)
    outline(picture, mask, (red, green, blue), line)


def outline(picture: Pixels, mask: Bitmap, colour: Colour, line: int) -> None:
    """Draws the outlines of a region, holes included, ``line`` pixels wide, in place."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, colour, line, cv2.LINE_AA)


def label_colour(value: int) -> Colour:
    """Returns the colour of label ``value``: the palette's, brighter, so that it is seen on dark images; repeats after 254 labels."""
    colour = palette()[(value - 1) % 254 + 1] if value else palette()[0]
    red, green, blue = (int(level) for level in np.rint(255 * (colour / 255.0) ** 0.5))
    return red, green, blue


def scale(image: Pixels, width: int | None, *, enlarge: bool = False) -> Pixels:
    """Returns a copy of an image, scaled to ``width`` pixels where it is wider (or, with ``enlarge``, narrower) than that."""
    old = image.shape[1]
    if width is None or old == width or (old < width and not enlarge):
        return image.copy()
    height = max(1, round(image.shape[0] * width / old))
    how = cv2.INTER_AREA if width < old else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), dtype=np.uint8)


def scale_mask(mask: Bitmap, height: int, width: int) -> Bitmap:
    """Returns a mask scaled to (height, width) with smooth edges: a pixel belongs to it where half of it or more does."""
    if mask.shape == (height, width):
        return mask
    how = cv2.INTER_AREA if height * width < mask.size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(mask.astype(np.uint8) * 255, (width, height), interpolation=how) >= 128, dtype=np.bool_)


def _mixed(pixels: Pixels, colour: Colour, share: float) -> Pixels:
    return np.rint((1 - share) * pixels + share * np.array(colour)).astype(np.uint8)


def _label_regions(labels: LabelMap) -> Iterator[tuple[Bitmap, int]]:
    for value in np.unique(labels.values):
        if value not in (0, labels.ignore):
            yield labels.values == value, int(value)


def _instance_regions(instances: Instances) -> Iterator[tuple[Bitmap, int]]:
    for index in np.argsort(-instances.scores, kind="stable")[::-1]:  # the most confident one is drawn last
        label = int(instances.labels[index])
        yield instances.mask(int(index)), (label if label >= 0 else int(index)) + 1
