"""Scenes: pure functions from (seed, index, …) to an image with exact ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from mdp_core.api import Bitmap, Pixels
from mdp_datasets import outlines, textures
from mdp_datasets.outlines import Outline, Plane
from mdp_datasets.textures import Texture

VERSION = 1
"""Version of the generator: raise it when any scene changes, so that nobody takes old results for those of new images."""

Level = Literal["easy", "hard"]


@dataclass(frozen=True)
class Kind:
    """A class of objects: outline, texture, and the hue (degrees, OKLCH) that it has at level ``easy``."""

    name: str
    outline: Outline
    texture: Texture
    hue: float


KINDS = (
    Kind("ring-disc", outlines.disc, textures.rings, 25.0),
    Kind("striped-triangle", outlines.triangle, textures.stripes, 85.0),
    Kind("checked-rectangle", outlines.rectangle, textures.checks, 255.0),
    Kind("dotted-star", outlines.star, textures.dots, 150.0),
    Kind("grained-cross", outlines.cross, textures.grain, 320.0),
)
_BACKGROUNDS = (textures.stripes, textures.checks, textures.dots, textures.grain)
_LEAST_VISIBLE = 0.4
"""An object of which less than this fraction would show is left out of the scene."""


@dataclass(frozen=True)
class Scene:
    """An image and its ground truth.

    Attributes:
        image: uint8 (size, size, 3) RGB.
        masks: bool (n, size, size), the visible part of each object; disjoint.
        labels: int32 (n,), index into ``KINDS``.
    """

    image: Pixels
    masks: Bitmap
    labels: NDArray[np.int32]


@dataclass(frozen=True)
class _Pose:
    """Where an object lies: centre and half side as fractions of the image's side, angle in radians."""

    kind: int
    x: float
    y: float
    half: float
    angle: float


@dataclass(frozen=True)
class _Object:
    """An object on the pixels: the window it lies in, own coordinates and signed distance (pixels) there."""

    pose: _Pose
    rows: slice
    columns: slice
    x: Plane
    y: Plane
    distance: Plane


def scene(seed: int, index: int, level: Level, size: int, objects: tuple[int, int]) -> Scene:
    """Generates one scene; equal arguments give equal scenes, and both levels have the same objects at the same places.

    Args:
        seed: Seed of all scenes, not negative.
        index: Which scene, not negative.
        level: ``easy`` (colours by class, plain background) or ``hard`` (colours at random, textured background).
        size: Side of the image in pixels.
        objects: Smallest and largest number of objects drawn; one that others nearly hide is left out.
    """
    poses = _poses(np.random.default_rng([seed, index, 0]), objects)
    placed, masks = _visible([_place(pose, size) for pose in poses], size)
    rng = np.random.default_rng([seed, index, 1])
    hue = rng.uniform(0.0, 360.0)
    canvas = _background(level, size, hue, rng)
    for item in placed:
        _draw(canvas, item, level, hue, rng)
    canvas += rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(0.012)
    image = np.rint(np.clip(canvas, 0.0, 1.0) * np.float32(255.0)).astype(np.uint8)
    return Scene(image, masks, np.array([item.pose.kind for item in placed], dtype=np.int32))


def _poses(rng: Generator, objects: tuple[int, int]) -> list[_Pose]:
    """Draws the objects' poses: of 24 places each takes the first that is clear of the earlier objects, or the best."""
    count = int(rng.integers(objects[0], objects[1] + 1))
    poses: list[_Pose] = []
    for _ in range(count):
        kind = int(rng.integers(len(KINDS)))
        half = rng.uniform(0.25, max(0.60 - 0.05 * count, 0.30)) / 2
        angle = rng.uniform(0.0, 2 * np.pi)
        places = rng.uniform(half * 1.05, 1.0 - half * 1.05, size=(24, 2))
        gaps = np.full(len(places), np.inf)
        for other in poses:
            gap = np.hypot(places[:, 0] - other.x, places[:, 1] - other.y) / (half + other.half) - 0.85
            gaps = np.minimum(gaps, gap)
        clear = np.flatnonzero(gaps >= 0)
        x, y = places[clear[0] if clear.size else int(gaps.argmax())]
        poses.append(_Pose(kind, float(x), float(y), float(half), float(angle)))
    return poses


def _place(pose: _Pose, size: int) -> _Object:
    """Computes an object's signed distance in the window that can show it or its shadow."""
    reach = pose.half * 1.5 + 0.02
    rows, columns = (slice(max(int((c - reach) * size), 0), min(int((c + reach) * size) + 1, size)) for c in (pose.y, pose.x))
    dy = (np.arange(rows.start, rows.stop, dtype=np.float32) + np.float32(0.5 - pose.y * size))[:, None]
    dx = (np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5 - pose.x * size))[None, :]
    unit = pose.half * size
    cosine, sine = np.float32(np.cos(pose.angle) / unit), np.float32(np.sin(pose.angle) / unit)
    x, y = dx * cosine + dy * sine, dy * cosine - dx * sine
    return _Object(pose, rows, columns, x, y, KINDS[pose.kind].outline(x, y) * np.float32(unit))


def _visible(objects: list[_Object], size: int) -> tuple[list[_Object], Bitmap]:
    """Keeps the objects that show enough, and returns their visible parts; a pixel is an object's if its centre is inside."""
    covered = np.zeros((size, size), np.bool_)
    kept: list[_Object] = []
    masks: list[Bitmap] = []
    for item in reversed(objects):
        whole = np.zeros((size, size), np.bool_)
        whole[item.rows, item.columns] = item.distance < 0
        shown = whole & ~covered
        if shown.sum() > _LEAST_VISIBLE * whole.sum():
            kept.insert(0, item)
            masks.insert(0, shown)
            covered |= whole
    return kept, np.array(masks, dtype=np.bool_).reshape(-1, size, size)


def _background(level: Level, size: int, hue: float, rng: Generator) -> Plane:
    """Paints a background, float32 (size, size, 3): a gradient with faint clouds, or two tones in one of the textures."""
    light = rng.uniform(0.35, 0.80)
    position = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size) - np.float32(0.5)
    angle = rng.uniform(0.0, 2 * np.pi)
    x = position[None, :] * np.float32(np.cos(angle)) + position[:, None] * np.float32(np.sin(angle))
    if level == "easy":
        pattern = x + np.float32(0.5) + (textures.smooth_noise(size, size, size / 6, rng) - np.float32(0.5)) * np.float32(0.5)
        return _blend(pattern, _colour(light - 0.08, 0.02, hue), _colour(light + 0.08, 0.03, hue + 30.0))
    y = position[:, None] * np.float32(np.cos(angle)) - position[None, :] * np.float32(np.sin(angle))
    repeats = rng.uniform(8.0, 14.0)
    texture = _BACKGROUNDS[int(rng.integers(len(_BACKGROUNDS)))]
    pattern = texture(x * np.float32(repeats), y * np.float32(repeats), repeats / size, rng)
    contrast = rng.uniform(0.06, 0.10)
    return _blend(
        pattern, _colour(light - contrast, 0.05, hue), _colour(light + contrast, 0.05, hue + rng.uniform(-40.0, 40.0))
    )


def _draw(canvas: Plane, item: _Object, level: Level, background_hue: float, rng: Generator) -> None:
    """Paints one object with its shadow into the canvas, in place."""
    kind, size = KINDS[item.pose.kind], canvas.shape[0]
    hue = kind.hue + rng.uniform(-15.0, 15.0) if level == "easy" else background_hue + rng.uniform(70.0, 290.0)
    dark, bright = rng.uniform(0.38, 0.50), rng.uniform(0.78, 0.90)
    period = rng.uniform(0.34, 0.44)
    pixel = 1.0 / (item.pose.half * size * period)
    pattern = kind.texture(item.x / np.float32(period), item.y / np.float32(period), pixel, rng)
    paint = _blend(pattern, _colour(dark, 0.14, hue), _colour(bright, 0.10, hue + rng.uniform(-20.0, 20.0)))
    rim = np.clip(item.distance + np.float32(0.5 + 0.012 * size), 0.0, 1.0)[..., None]
    paint *= np.float32(1.0) - np.float32(0.45) * rim
    cover = np.clip(np.float32(0.5) - item.distance, 0.0, 1.0)
    shadow = cv2.GaussianBlur(cover, (0, 0), sigmaX=0.025 * size)
    window = canvas[item.rows, item.columns]
    window *= np.float32(1.0) - np.float32(0.45) * shadow[..., None]
    window += (paint - window) * cover[..., None]


def _blend(pattern: Plane, low: Plane, high: Plane) -> Plane:
    return low + pattern[..., None] * (high - low)


def _colour(light: float, chroma: float, hue: float) -> Plane:
    """Converts OKLCH (lightness 0..1, chroma, hue in degrees) to sRGB, float32 (3,) in [0, 1] (Ottosson, 2020)."""
    lab = np.array([light, chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))])
    linear = np.clip(_CONES_TO_RGB @ (_LAB_TO_CONES @ lab) ** 3, 0.0, 1.0)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).astype(np.float32)


_LAB_TO_CONES = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_CONES_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
