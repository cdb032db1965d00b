"""Images: records of a dataset's images, and reading them the same way everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mdp_core.errors import DataError

Pixels = NDArray[np.uint8]
"""RGB pixels, uint8 (H, W, 3), after EXIF orientation."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
"""What a file may be, whatever its suffix says; by default Pillow also tries formats that start other programs (EPS)."""


@dataclass(frozen=True)
class ImageRecord:
    """One image of a dataset.

    Attributes:
        id: Unique name within the dataset, for example ``2007_000032`` or ``holiday/IMG_1.jpg``; a relative path at most.
        height: Height in pixels after EXIF orientation.
        width: Width in pixels after EXIF orientation.
        path: The file, or None where the image is generated.
    """

    id: str
    height: int
    width: int
    path: str | None = None


class Images:
    """Images that a plugin may look at: records and pixels, and nothing else (no ground truth passes through here).

    Args:
        records: The images, in order.
        read: Reads one record's pixels, uint8 (H, W, 3) RGB.
    """

    def __init__(self, records: Sequence[ImageRecord], read: Callable[[ImageRecord], Pixels]) -> None:
        self.records = tuple(records)
        self._read = read

    def __len__(self) -> int:
        return len(self.records)

    def read(self, index: int) -> Pixels:
        """Reads image ``index``: uint8 (H, W, 3) RGB after EXIF orientation.

        Raises:
            DataError: The file cannot be read, or its size is no longer the recorded one.
        """
        record = self.records[index]
        pixels = self._read(record)
        if pixels.shape != (record.height, record.width, 3):
            raise DataError(
                f"{record.path or record.id}: {pixels.shape[1]}×{pixels.shape[0]} px now, {record.width}×{record.height} when the dataset was read",
                hint="the file changed during the run; run the same command again",
            )
        return pixels

    def __iter__(self) -> Iterator[Pixels]:
        return (self.read(index) for index in range(len(self)))

    def subset(self, indices: Sequence[int] | range) -> Images:
        """Returns the images at ``indices``, in that order."""
        return Images([self.records[i] for i in indices], self._read)


def read_image(path: Path | str) -> Pixels:
    """Reads an image file as RGB, whatever its mode (grey, palette, RGBA, CMYK, 16 bit), with EXIF orientation applied.

    Transparency is laid over white. Greys of 16 bits are scaled from 0..65535 to 0..255, but left as they are where no pixel
    is above 255 (8 bits in a 16-bit file); float greys are scaled from 0 to the larger of 1 and their maximum, NaN is black.

    Returns:
        uint8 (H, W, 3).

    Raises:
        DataError: The file is missing, is not an image or is truncated.
    """
    try:
        with Image.open(path, formats=_FORMATS) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
            return _to_rgb(image)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image ({unreadable(path, error)})") from error


def unreadable(path: Path | str, error: Exception) -> str:
    """Says in words why Pillow could not read a file."""
    if isinstance(error, Image.DecompressionBombError):
        return f"its header claims more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels: it is damaged, or made to fill the memory"
    if not isinstance(error, UnidentifiedImageError):
        return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    with Path(path).open("rb") as file:
        head = file.read(64).lstrip()
    if not head:
        return "it is empty"
    return "it is a web page" if head[:1] == b"<" else f"its contents are none of {', '.join(_FORMATS)}"


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        brightest = grey.max(initial=0.0)
        white = max(brightest, 1.0) if image.mode == "F" else 65535.0 if brightest > 255 else 255.0
        grey8 = np.clip(np.rint(grey / white * 255.0), 0, 255).astype(np.uint8)
        return np.repeat(grey8[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, "white")
        return np.array(Image.alpha_composite(canvas, rgba).convert("RGB"))
    return np.array(image.convert("RGB"))
