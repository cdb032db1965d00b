"""Prior ``mask-folder``: masks that some other program made, so that whatever finds objects can stand in a prior's place.

A folder of PNG files, a folder of JSON files, or one COCO JSON. Each mask belongs to the image of its name and has its size.
"""

from __future__ import annotations

import difflib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from fnmatch import translate
from functools import cached_property
from pathlib import Path, PurePosixPath
from re import compile as compiled

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mdp_core.api import Bitmap, DataError, GroupingPrior, ImageRecord, Images, Instances, files_below
from mdp_handcrafted.annotations import AnnotationFile, Annotations, annotations_in, mask_of, score_of, stem_of
from mdp_handcrafted.settings.mask_folder import MaskFolderConfig

Values = NDArray[np.int64]
SOFT = 128
"""More greys than that in a PNG of 8 bits are no instances."""
MOST = 1000
"""More values than that are no instances in any PNG."""


class MaskFolder(GroupingPrior[MaskFolderConfig]):
    """Reads masks instead of mining them."""

    Config = MaskFolderConfig

    @property
    def path(self) -> Path:
        """The folder or the COCO JSON."""
        return Path(self.config.path).expanduser()

    @cached_property
    def _file(self) -> AnnotationFile:
        if self.path.suffix.lower() != ".json":
            raise DataError(
                f"{self.path}: unknown format", hint="path is a folder of PNG or JSON files, or one COCO file (.json)"
            )
        return AnnotationFile(self.path)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return files_below(self.path)

    def mine(self, images: Images) -> Iterator[Instances]:
        """Yields the masks of each image, without empty ones, with the scores of their file (1 where it has none) and tight boxes.

        Raises:
            DataError: There are none for an image (with ``missing: error``), or a file is damaged, or a mask has another size than
                its image (without ``resize``).
        """
        found = [self._find(record) for record in images.records]
        lacking = [record.id for record, there in zip(images.records, found, strict=True) if there is None]
        if lacking:
            self._report_missing(lacking, len(found))
        for record, there in zip(images.records, found, strict=True):
            yield joined([self._fitted(mask, score, where, record) for mask, score, where in self._read(there, record)], record)

    def _find(self, record: ImageRecord) -> Annotations | Sequence[Path] | None:
        """Returns an image's annotations in the COCO file, or its files in the folder; None where there are none."""
        if not self.path.is_dir():
            return self._file.of(record)
        stem = stem_of(record.id)
        fields = {"id": record.id, "stem": stem, "name": PurePosixPath(stem).name}
        if not set(self.config.pattern) & set("*?"):
            file = self.path / self.config.pattern.format(**fields)
            return [file] if file.is_file() else None
        names = matching(self._names, self.config.pattern, fields)
        return [self.path / name for name in names] or None

    def _read(self, found: Annotations | Sequence[Path] | None, record: ImageRecord) -> Iterator[tuple[Bitmap, float, str]]:
        """Yields masks at their own size, each with its score and where it is from."""
        if isinstance(found, Annotations):
            for item in found.items:
                size = found.size or (record.height, record.width)
                yield mask_of(item, size, found.where), score_of(item, found.where), found.where
            return
        for path in found or ():
            if path.suffix == ".json":
                yield from self._read(annotations_in(path), record)
            else:
                yield from ((mask, 1.0, str(path)) for mask in self._masks_of_png(path))

    def _masks_of_png(self, path: Path) -> Iterator[Bitmap]:
        config, (values, grey) = self.config, read_png(path)
        if config.values == "binary":
            yield (values > config.above) & ~np.isin(values, config.void)
            return
        there = np.setdiff1d(values, [0, *config.void])
        if len(there) > (SOFT if grey else MOST):
            raise DataError(
                f"{path}: {len(there)} different values, which is no image of instances",
                hint="for a soft map set values: binary and above: 127; many instances need a palette or 16 bits",
            )
        yield from (values == value for value in there)

    def _fitted(self, mask: Bitmap, score: float, where: str, record: ImageRecord) -> Instances:
        """Returns a mask as an instance of its image; nothing where it has no pixel or too low a score."""
        size = record.height, record.width
        if mask.shape != size:
            if not self.config.resize:
                raise DataError(
                    f"{where}: a mask of {mask.shape[1]} × {mask.shape[0]} pixels (width × height) for image {record.id} of "
                    f"{size[1]} × {size[0]}",
                    hint="the masks are of another copy of the image: make them again, or set resize: true",
                )
            resized = cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
            mask = resized.reshape(size).astype(np.bool_)
        keep = mask.any() and score >= self.config.min_score
        return Instances.from_masks(mask[None][: int(keep)], scores=[score][: int(keep)])

    def _report_missing(self, lacking: list[str], of: int) -> None:
        """Raises an error where images must have masks; warns where none of the images has any."""
        folder = self.path.is_dir()
        what = f"no file {self.config.pattern}" if folder else "not listed"
        message = f"{self.path}: {what} for {len(lacking)} of {of} images: {', '.join(lacking[:3])}{', …' * (len(lacking) > 3)}"
        if self.config.missing == "error":
            close = difflib.get_close_matches(lacking[0], self._names, 1, 0.3) if folder else []
            there = f"the folder has {len(self._names)} files{f', such as {close[0]}' if close else ''}; " if folder else ""
            raise DataError(message, hint=f"{there}set missing: empty where such images have no object")
        if len(lacking) == of:
            self.context.listener.warn(
                f"{message}. They count as images without objects; is the right folder or pattern named?"
            )


def matching(names: Sequence[str], pattern: str, fields: dict[str, str]) -> list[str]:
    """Returns those of sorted relative paths that match a pattern, in order; * and ? stand for no /.

    Args:
        names: Relative paths, sorted.
        pattern: With {fields}, * and ?.
        fields: What stands for each field, itself without wildcards.
    """
    literal = {key: "".join(f"[{c}]" if c in "*?[" else c for c in value) for key, value in fields.items()}
    first = min(pattern.find(wildcard) for wildcard in "*?" if wildcard in pattern)
    prefix, whole = pattern[:first].format(**fields), pattern.replace("[", "[[]").format(**literal)
    expression = compiled(translate(whole))
    found = []
    for name in names[bisect_left(names, prefix) :]:
        if not name.startswith(prefix):
            break
        if expression.match(name) and name.count("/") == whole.count("/"):
            found.append(name)
    return found


def read_png(path: Path) -> tuple[Values, bool]:
    """Reads the values of a PNG as they are stored: greys, indices of a palette, or colours as red + 256 green + 65536 blue.

    Colours whose three parts are equal everywhere are greys.

    Returns:
        int64 (H, W), and whether they are greys of 8 bits.

    Raises:
        DataError: It is no PNG, damaged, or has transparency.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()
            mode, values = image.mode, np.asarray(image).astype(np.int64)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        why = "it is none" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"{path}: cannot be read as PNG ({why})", hint="JPEG and others blur masks; write PNG") from error
    if values.ndim == 2:
        return values, mode == "L"
    if mode != "RGB":
        raise DataError(f"{path}: a PNG with transparency ({mode})", hint="write it grey, with a palette, or RGB")
    if (values == values[..., :1]).all():
        return values[..., 0], True
    return values @ np.array([1, 256, 65536]), False


def joined(parts: Sequence[Instances], record: ImageRecord) -> Instances:
    """Returns the instances of several as those of one image."""
    if not parts:
        return Instances.empty(record.height, record.width)
    return Instances(
        height=record.height,
        width=record.width,
        masks=tuple(mask for part in parts for mask in part.masks),
        boxes=np.concatenate([part.boxes for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
    )
