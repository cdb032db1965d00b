"""The paper that sheets are drawn on: fonts, text that fits, cells of one size."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterable, Sequence
from statistics import median

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mdp_core.data.images import Pixels
from mdp_core.report.overlay import label_colour

INK = (28, 30, 36)
QUIET = (110, 114, 124)
RULE = (222, 224, 229)
BLANK = (243, 244, 246)
MARGIN = 24
GAP = 8
LEGEND_LINE = 26

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def font(size: int) -> Font:
    """Returns Pillow's own font at ``size`` pixels."""
    return ImageFont.load_default(size)


def drawable(text: str) -> str:
    """Returns text that Pillow's font can draw: accents dropped, a dash for other dashes, ``?`` for letters that it lacks."""
    plain = text.replace("–", "-").replace("—", "-").replace("×", "x")
    parts = unicodedata.normalize("NFKD", plain.replace("…", "\0"))
    kept = (c for c in parts if not unicodedata.combining(c))
    return "".join("…" if c == "\0" else c if " " <= c <= "~" or c == "·" else "?" for c in kept)


def fit_text(text: str, width: float, face: Font) -> str:
    """Returns drawable text no wider than ``width`` pixels, its middle replaced by an ellipsis where it must be shortened."""
    text = drawable(text)
    if face.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        short = text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]
        if face.getlength(short) <= width:
            return short
    return ""


def cell_height(pictures: Iterable[Pixels | None], width: int) -> int:
    """Returns the height of all cells of a sheet: as the middle one of its pictures needs it, from 0.6 to 1.3 times ``width``."""
    ratios = [picture.shape[0] / picture.shape[1] for picture in pictures if picture is not None]
    return round(width * min(max(median(ratios) if ratios else 1.0, 0.6), 1.3))


def paste(sheet: Image.Image, picture: Pixels | None, corner: tuple[int, int], width: int, height: int) -> None:
    """Puts a picture into the cell whose left upper corner is (x, y), as large as it fits, in its middle; None draws a dash."""
    x, y = corner
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=BLANK)
    if picture is None:
        middle_x, middle_y = x + width // 2, y + height // 2
        draw.line((middle_x - 9, middle_y, middle_x + 9, middle_y), fill=QUIET, width=2)
        return
    factor = min(width / picture.shape[1], height / picture.shape[0])
    if abs(factor * picture.shape[0] - height) < 2 and abs(factor * picture.shape[1] - width) < 2:
        size = width, height  # rounding must not leave a hairline
    else:
        size = max(1, round(factor * picture.shape[1])), max(1, round(factor * picture.shape[0]))
    if size != (picture.shape[1], picture.shape[0]):
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC if factor < 3 else cv2.INTER_NEAREST
        picture = np.asarray(cv2.resize(picture, size, interpolation=how), dtype=np.uint8)
    sheet.paste(Image.fromarray(picture), (x + (width - size[0]) // 2, y + (height - size[1]) // 2))


def legend_lines(legend: Sequence[tuple[int, str]], width: int) -> list[list[tuple[int, int, str]]]:
    """Breaks a legend of (label, name) into lines of (x, label, text) that fit ``width`` pixels."""
    face, x = font(14), 0
    lines: list[list[tuple[int, int, str]]] = [[]]
    for label, name in legend:
        text = fit_text(name, width - 24, face)
        needed = 24 + round(face.getlength(text)) + 18
        if x and x + needed - 18 > width:
            lines.append([])
            x = 0
        lines[-1].append((x, label, text))
        x += needed
    return [line for line in lines if line]


def draw_legend(sheet: Image.Image, lines: Sequence[Sequence[tuple[int, int, str]]], x: int, y: int) -> None:
    """Draws the lines of a legend: a swatch in the label's colour, then its name."""
    draw, face = ImageDraw.Draw(sheet), font(14)
    for row, line in enumerate(lines):
        top = y + row * LEGEND_LINE
        for offset, label, text in line:
            left = x + offset
            draw.rounded_rectangle((left, top + 3, left + 15, top + 18), radius=4, fill=label_colour(label))
            draw.text((left + 24, top + 11), text, font=face, fill=INK, anchor="lm")


def to_png(picture: Pixels) -> bytes:
    """Returns a picture, uint8 (H, W, 3) RGB, as a PNG file's contents."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=4)  # half the time of level 6 for 4 % more bytes
    return buffer.getvalue()
