"""LabelMap: one label a pixel, and the palette PNG that anyone can open."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mdp_core.data.instances import Instances
from mdp_core.errors import DataError

Labels = NDArray[np.uint8] | NDArray[np.uint16]
IGNORE = 255
IGNORE_16 = 65535


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Labels of one image's pixels.

    Attributes:
        values: (H, W); 0 = background, 1..C = clusters (or classes). uint8 with 255 = ignore, or, where C > 254,
            uint16 with 65535 = ignore.
        probabilities: Optional float16 (C+1, h, w), h and w not necessarily H and W; summing to 1 over axis 0.
    """

    values: Labels
    probabilities: NDArray[np.float16] | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"a label map is uint8 or uint16 (H, W), not {self.values.dtype} {self.values.shape}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.values.shape[0]), int(self.values.shape[1])

    @property
    def ignore(self) -> int:
        """The value of pixels that do not count."""
        return IGNORE if self.values.dtype == np.uint8 else IGNORE_16

    @classmethod
    def background(cls, height: int, width: int) -> LabelMap:
        """Returns a map of background alone."""
        return cls(np.zeros((height, width), np.uint8))

    @classmethod
    def from_array(cls, values: NDArray[Any], *, clusters: int | None = None) -> LabelMap:
        """Builds a label map from any integer (H, W) array, in the smallest type that holds ``clusters`` labels.

        Without ``clusters`` the type is the smallest that holds the values, and in an array with none above 255, 255 is ignore.

        Raises:
            ValueError: A value is negative or too large for that type.
        """
        top = int(values.max(initial=0)) - 1 if clusters is None else clusters
        most = IGNORE if top < IGNORE else IGNORE_16
        if values.size and not 0 <= int(values.min()) <= int(values.max()) <= most:
            raise ValueError(f"labels from {values.min()} to {values.max()}, where only 0 to {most} fit")
        return cls(values.astype(np.uint8) if top < IGNORE else values.astype(np.uint16))

    @classmethod
    def paint(cls, instances: Instances) -> LabelMap:
        """Paints instances as label + 1; where masks overlap, the most confident one wins, pixel by pixel (paper §3.3).

        Equal scores: the earlier instance wins. Every instance must be clustered (label ≥ 0).
        """
        if len(instances) and int(instances.labels.min()) < 0:
            raise ValueError("instances without a cluster cannot be painted")
        top = int(instances.labels.max(initial=-1)) + 1
        values = np.zeros(instances.size, np.uint8 if top <= 254 else np.uint16)
        for index in np.argsort(-instances.scores, kind="stable")[::-1]:
            values[instances.mask(int(index))] = instances.labels[index] + 1
        return cls(values)

    def to_png(self) -> bytes:
        """Returns a palette PNG (8 bit), or a 16-bit grey PNG for more than 254 clusters."""
        buffer = io.BytesIO()
        if self.values.dtype == np.uint8:
            image = Image.fromarray(self.values)
            image.putpalette(palette().tobytes())
        else:
            image = Image.fromarray(self.values)
        image.save(buffer, format="PNG")
        return buffer.getvalue()

    @classmethod
    def from_png(cls, path: Path | str) -> LabelMap:
        """Reads a palette or grey PNG of labels, of 1 to 16 bits; 16 bits make a uint16 map.

        Raises:
            DataError: The file cannot be read, is not a PNG or holds colours, not labels.
        """
        try:
            with Image.open(path, formats=("PNG",)) as image:
                # Pillow stretches greys of 2 and 4 bits to 0..255, which is right for pictures and wrong for labels.
                stretch = {"L;2": 85, "L;4": 17}.get(str(image.tile[0][3]) if image.tile else "", 1)
                if image.mode not in ("1", "P", "L", "I;16", "I"):
                    raise DataError(
                        f"{path}: a label map is a palette or grey image, this one is {image.mode}",
                        hint="save class numbers, not colours",
                    )
                values = np.array(image)
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such label map") from error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(
                f"{path}: cannot be read as a label map ({_reason(error)})",
                hint="it is damaged or no PNG: unpack or export it again",
            ) from error
        return cls(values.astype(np.uint8) // np.uint8(stretch) if values.itemsize == 1 else values.astype(np.uint16))


def _reason(error: Exception) -> str:
    return "it is not a PNG image" if isinstance(error, UnidentifiedImageError) else str(error)


def palette() -> NDArray[np.uint8]:
    """Returns the PASCAL VOC palette, uint8 (256, 3): bit-interleaved colours, 0 is black, 255 is near white."""
    index = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours
