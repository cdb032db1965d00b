"""Which images have ground truth to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from mdp_core.api import LabelMap, StageError

__all__ = ["KnownTruth"]


class KnownTruth(Sequence[LabelMap]):
    """Label maps of the images that have one with a pixel that counts, read when they are asked for.

    Args:
        truth: Label maps of all images, None where there is none; each is read once to find out.

    Attributes:
        indices: Which images those are.

    Raises:
        StageError: No image has any.
    """

    def __init__(self, truth: Sequence[LabelMap | None]) -> None:
        self.truth = truth
        self.indices = [index for index in range(len(truth)) if _counts(truth[index])]
        if not self.indices:
            raise StageError(
                f"none of the {len(truth)} training images has true classes, which a probe learns from",
                hint="take a training split with ground truth (data.train), or remove the probe from the recipe",
            )

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> LabelMap: ...
    @overload
    def __getitem__(self, index: slice) -> list[LabelMap]: ...
    def __getitem__(self, index: int | slice) -> LabelMap | list[LabelMap]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        found = self.truth[self.indices[index]]
        if found is None:
            raise StageError(
                f"the ground truth of training image {self.indices[index]} is gone", hint="the files changed during the run"
            )
        return found


def _counts(label_map: LabelMap | None) -> bool:
    return label_map is not None and bool((label_map.values != label_map.ignore).any())
