"""Settings of ``mask-folder``."""

from __future__ import annotations

from pathlib import PurePosixPath
from string import Formatter
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from mdp_core.api import NoEffect, PathRef, StageConfig

FIELDS = ("id", "stem", "name")


class MaskFolderConfig(StageConfig):
    """Settings of ``mask-folder``; ``path`` is needed."""

    seeded_steps: ClassVar[tuple[str, ...]] = ()
    uses_labels: ClassVar[str | None] = "masks made elsewhere; whether labels stand behind them is not stated"

    path: PathRef
    """Folder of PNG files or of JSON files, one or more an image (see pattern), or one COCO JSON (*.json) with all masks. A path is
    relative to where mdp is started. Names and contents of the files, not the path, decide what is mined anew."""
    pattern: str = "{stem}.png"
    """Which files of a folder are an image's: {id} is the image's id, {stem} the id without the suffix of an image, {name} the last
    part of that; * and ? are wildcards within a name. It ends in .png or .json. Several files (for example {stem}_*.png)
    follow each other by name. A JSON file holds COCO annotations, or run lengths, of one image."""
    values: Literal["instances", "binary"] = "instances"
    """How a PNG is read. instances: each value but 0 is a mask (grey, palette, 16 bits, or colours); binary: all above the setting
    above is one mask, for soft maps and for files of several greys."""
    above: int = Field(0, ge=0, le=65535)
    """What a pixel of a binary PNG must exceed (0 to 255, or to 65535 in one of 16 bits): 127 for soft maps."""
    void: tuple[int, ...] = ()
    """Values of a PNG that are no mask besides 0, for example 255, the outlines in the PNG files of Pascal VOC."""
    missing: Literal["error", "empty"] = "error"
    """What an image is without masks in the folder or file: an error, or an image without objects."""
    resize: bool = False
    """Resize masks of another size than the image (nearest pixel). As it is, they are an error."""
    min_score: float = Field(0.0, ge=0, le=1)
    """Masks with a lower score are left out; masks of PNG files have the score 1."""
    supervision: Annotated[str, NoEffect] = Field("unknown", min_length=1)
    """What ground truth stands behind the masks, in words, which every result repeats: none where they were made without labels."""

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, pattern: str) -> str:
        path = PurePosixPath(pattern)
        if path.suffix not in (".png", ".json"):
            raise ValueError(f"the format is told by the end of the pattern, .png or .json, and {pattern!r} has another")
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"the pattern is relative to the folder and stays in it, got {pattern!r}")
        try:
            names = [field for _, field, _, _ in Formatter().parse(pattern) if field is not None]
        except ValueError as error:
            raise ValueError(f"not a pattern: {pattern!r} ({error})") from error
        if not names or not set(names) <= set(FIELDS):
            raise ValueError(f"the pattern needs {{id}}, {{stem}} or {{name}} and no others, got {pattern!r}")
        return pattern

    def labels_used(self) -> str | None:
        """Returns what the setting ``supervision`` states."""
        return stated(self.supervision, type(self).uses_labels)


def stated(supervision: str, unknown: str | None) -> str | None:
    """Returns what labels stand behind something of another program, in words; None where the user says that none do."""
    return {"none": None, "unknown": unknown}.get(supervision.strip().lower(), f"made elsewhere with: {supervision}")
