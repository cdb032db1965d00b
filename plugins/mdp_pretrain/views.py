"""Views: many crops of a batch of images at once, each with its own geometry and colours, on the device that trains.

Geometry is one affine map a view, sampled with bilinear interpolation; colours are one affine map of RGB a view. Random numbers
are drawn on the CPU from one generator, so that a view is a function of (seed, iteration) on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mdp_pretrain.settings import ColourConfig, ViewsConfig

GREY = 3**-0.5
"""Each coordinate of the axis of grey colours, around which hues turn."""
SHADES = 4
"""Cells of a field of light along each side."""
ASPECT = math.log(4 / 3)
"""Largest logarithm of a crop's ratio of sides."""


@dataclass(frozen=True)
class Batch:
    """Images and, where they have one, their masks.

    Attributes:
        pixels: float32 (B, 3, S, S) in [0, 1]: each image squeezed into a square.
        aspect: float32 (B,), width / height of the images themselves.
        masks: float32 (B, 1, S, S), 0 or 1, or None.
        boxes: float32 (B, 4), centre x and y in [-1, 1] and half width and height (1 = half the image) of the masks; None likewise.
    """

    pixels: Tensor
    aspect: Tensor
    masks: Tensor | None = None
    boxes: Tensor | None = None


@dataclass(frozen=True)
class Crops:
    """One view of each image, not yet coloured.

    Attributes:
        pixels: float32 (B, 3, size, size) in [0, 1].
        outside: bool (B, 1, size, size), what shall become the mean colour, or None.
    """

    pixels: Tensor
    outside: Tensor | None

    def turned(self, quarters: int, mirrored: bool) -> Crops:
        """Returns the same crops turned by quarters and mirrored: patches go over into patches."""
        outside = None if self.outside is None else turn(self.outside, quarters, mirrored)
        return Crops(turn(self.pixels, quarters, mirrored), outside)


def turn(images: Tensor, quarters: int, mirrored: bool) -> Tensor:
    """Turns (..., H, W) by quarters, then mirrors it."""
    turned = torch.rot90(images, quarters, (-2, -1))
    return turned.flip(-1) if mirrored else turned


def crop(batch: Batch, config: ViewsConfig, *, local: bool, objects: Tensor, draw: torch.Generator) -> Crops:
    """Cuts one view out of each image.

    Args:
        batch: The images.
        config: Sizes and ranges.
        local: A small view instead of a large one.
        objects: bool (B,), on the CPU: which images' views are cut around their masks.
        draw: Random numbers.
    """
    size = config.local_size if local else config.size
    matrix = _placement(batch, config, local, objects, draw).to(batch.pixels.device)
    filled = objects & (torch.rand(len(objects), generator=draw) < config.objects.fill)
    source = batch.pixels if batch.masks is None else torch.cat([batch.pixels, batch.masks], dim=1)
    grid = functional.affine_grid(matrix, [len(source), source.shape[1], size, size], align_corners=False)
    cut = functional.grid_sample(source, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    if batch.masks is None:
        return Crops(cut, None)
    return Crops(cut[:, :3], (cut[:, 3:] < 0.5) & filled.to(cut.device)[:, None, None, None])


def _placement(batch: Batch, config: ViewsConfig, local: bool, objects: Tensor, draw: torch.Generator) -> Tensor:
    """Draws the affine map from a view's square to each image's square, both [-1, 1]²: float32 (B, 2, 3), on the CPU.

    In between lies the picture as it is, whose shorter side is 2 long.
    """
    count = len(objects)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=draw)

    aspect = batch.aspect.cpu()
    extent = torch.stack([aspect.clamp(min=1.0), (1 / aspect).clamp(min=1.0)], dim=1)  # half sides of the picture: x, y
    area = uniform(*(config.local_scale if local else config.scale)) * extent.prod(dim=1)
    ratio = torch.exp(uniform(-ASPECT, ASPECT) / 2)
    half = torch.stack([area.sqrt() * ratio, area.sqrt() / ratio], dim=1).minimum(extent)
    half = half.minimum(half.flip(1) * (math.exp(ASPECT) + 1e-3))  # a long picture ends a view's shorter sides, not its ratio
    centre = (extent - half) * torch.stack([uniform(-1, 1), uniform(-1, 1)], dim=1)
    if batch.boxes is not None:
        boxes = batch.boxes.cpu()
        side = (boxes[:, 2:] * extent).amax(dim=1)  # half the longer side of the box
        jitter = 0.5 if local else 0.25
        shift = torch.stack([uniform(-jitter, jitter), uniform(-jitter, jitter)], dim=1) * side[:, None]
        chosen = objects[:, None]
        around = side * uniform(*(config.objects.local_scale if local else config.objects.scale))
        half = torch.where(chosen, torch.stack([around * ratio, around / ratio], dim=1), half)
        centre = torch.where(chosen, boxes[:, :2] * extent + shift, centre)
    angle = torch.deg2rad(uniform(-config.rotation, config.rotation))
    mirror = torch.where(uniform(0, 1) < (0.5 if config.flip == "horizontal" else 0.0), -1.0, 1.0)
    cosine, sine = angle.cos(), angle.sin()
    linear = torch.stack(
        [cosine * half[:, 0] * mirror, -sine * half[:, 1], sine * half[:, 0] * mirror, cosine * half[:, 1]], dim=1
    )
    picture = torch.cat([linear.view(count, 2, 2), centre[:, :, None]], dim=2)
    return picture / extent[:, :, None]


def recolour(crops: Crops, config: ColourConfig, mean: Tensor, draw: torch.Generator) -> Tensor:
    """Changes the colours of each crop and fills what lies outside its mask.

    Args:
        crops: The crops.
        config: How much changes.
        mean: float32 (3,), the colour outside masks, in [0, 1].
        draw: Random numbers.

    Returns:
        float32 (B, 3, size, size) in [0, 1].
    """
    pixels, device = crops.pixels, crops.pixels.device
    matrix, lift = _colour_map(len(pixels), config, draw)
    centre = pixels.mean(dim=(1, 2, 3), keepdim=True)
    mixed = torch.einsum("bij,bjhw->bihw", matrix.to(device), pixels - centre)
    mixed = mixed + centre + lift.to(device)[:, None, None, None]
    if config.shade:
        mixed = mixed + shading(len(pixels), pixels.shape[-1], config.shade, draw).to(device)
    if config.noise:
        level = config.noise * torch.rand(len(pixels), generator=draw)
        mixed = mixed + (level[:, None, None, None] * torch.randn(pixels.shape, generator=draw)).to(device)
    mixed = mixed.clamp_(0.0, 1.0)
    blurred = torch.rand(len(pixels), generator=draw) < config.blur
    sigma = (0.1 + 1.9 * torch.rand(len(pixels), generator=draw)) * pixels.shape[-1] / 224
    if blurred.any():
        mixed = torch.where(blurred.to(device)[:, None, None, None], blur(mixed, sigma.to(device)), mixed)
    if crops.outside is not None:
        mixed = torch.where(crops.outside, mean.to(device)[:, None, None], mixed)
    return mixed


def _colour_map(count: int, config: ColourConfig, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws (B, 3, 3) maps of RGB around the mean grey, and (B,) changes of brightness."""

    def around(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=draw)

    angle = around(-config.hue, config.hue) * 2 * math.pi
    saturation = around(1 - config.saturation, 1 + config.saturation)
    contrast = around(1 - config.contrast, 1 + config.contrast)
    lift = around(-config.brightness, config.brightness)
    grey = torch.rand(count, generator=draw) < config.grey
    sign = torch.where(torch.rand(count, generator=draw) < config.invert, -1.0, 1.0)
    along = torch.full((3, 3), 1 / 3)
    across = GREY * torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    turned = (
        angle.cos()[:, None, None] * (torch.eye(3) - along) + angle.sin()[:, None, None] * across
    )  # Rodrigues, without along
    chroma = torch.where(grey, 0.0, saturation)[:, None, None] * turned
    return (contrast * sign)[:, None, None] * (along + chroma), lift


def shading(count: int, size: int, strongest: float, draw: torch.Generator) -> Tensor:
    """Draws smooth fields of light, a little coloured: float32 (count, 3, size, size) around 0."""
    coarse = torch.randn(count, 1, SHADES, SHADES, generator=draw) + 0.3 * torch.randn(count, 3, SHADES, SHADES, generator=draw)
    smooth = functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    return smooth * (strongest * torch.rand(count, generator=draw))[:, None, None, None]


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blurs (B, 3, H, W) with a Gaussian each, of float (B,) pixels; cut off at 2 pixels or twice the largest, if more."""
    reach = max(2, math.ceil(2 * float(sigma.max())))
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma.to(images.dtype)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(images.shape[1], dim=0)
    flat = images.flatten(0, 1)[None]
    padded = functional.pad(flat, (reach, reach, reach, reach), mode="reflect")
    rows = functional.conv2d(padded, kernel[:, None, None, :], groups=len(kernel))
    return functional.conv2d(rows, kernel[:, None, :, None], groups=len(kernel))[0].view_as(images)
