"""Refiner ``confidence``: keeps the masks that the detector is sure of, {M_i | s_i > τ} (MaskDistill, §3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mdp_core.api import Images, Instances, LabelMap, Refiner, StageError
from mdp_refine.overlap import paint
from mdp_refine.pixels import boxed, grabcut
from mdp_refine.settings import ConfidenceConfig


class Confidence(Refiner[ConfidenceConfig]):
    """Turns scored masks into a label map; an image without any mask is all background."""

    Config = ConfidenceConfig

    def refine(self, images: Images, predictions: Sequence[Instances] | Sequence[LabelMap]) -> Iterator[LabelMap]:
        """Yields one label map an image; reads pixels for GrabCut alone.

        Raises:
            StageError: The predictions are label maps, or masks without a cluster.
        """
        config = self.config
        for index, (record, instances) in enumerate(zip(images.records, predictions, strict=True)):
            if not isinstance(instances, Instances):
                raise StageError("confidence refines scored masks, not label maps", hint="put it after a detector")
            chosen = confident(
                instances.scores, config.threshold, keep_best=config.keep_best, equal=config.comparison == "at-least"
            )
            kept = instances.select(chosen)
            if (kept.labels < 0).any():
                raise StageError(
                    f"{record.id}: masks without a cluster cannot become a label map",
                    hint="put a clusterer or a detector before the refiner",
                )
            if config.pixels == "box":
                kept = boxed(kept)
            elif config.pixels == "grabcut" and len(kept):
                kept = grabcut(kept, images.read(index))
            yield paint(kept, config.overlap)


def confident(scores: NDArray[np.float32], threshold: float, *, keep_best: bool, equal: bool = False) -> NDArray[np.int64]:
    """Selects the scores above a threshold, compared as float32.

    The authors' code walks down the scores and stops at the first below the threshold: the same selection with ``equal``.

    Args:
        scores: float32 (n,) in [0, 1], in any order.
        threshold: τ; a score must be greater.
        keep_best: Where no score passes, select the best (the first of equals).
        equal: Scores equal to the threshold pass as well.

    Returns:
        Their indices, ascending, int64.
    """
    limit = np.float32(threshold)
    chosen = np.flatnonzero(scores >= limit if equal else scores > limit)
    if keep_best and not len(chosen) and len(scores):
        chosen = np.array([np.argmax(scores)])
    return chosen
