"""Refiner ``confidence``: keeps the masks that the detector is sure of, {M_i | s_i > τ} (MaskDistill, §3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mdp_core.api import Images, Instances, LabelMap, Refiner, StageError
from mdp_refine.settings import ConfidenceConfig


class Confidence(Refiner[ConfidenceConfig]):
    """Turns scored masks into a label map; an image without any mask is all background."""

    Config = ConfidenceConfig

    def refine(self, images: Images, predictions: Sequence[Instances] | Sequence[LabelMap]) -> Iterator[LabelMap]:
        """Yields one label map an image.

        Raises:
            StageError: The predictions are label maps, or masks without a cluster.
        """
        for record, instances in zip(images.records, predictions, strict=True):
            if not isinstance(instances, Instances):
                raise StageError("confidence refines scored masks, not label maps", hint="put it after a detector")
            kept = instances.select(confident(instances.scores, self.config.threshold, keep_best=self.config.keep_best))
            if (kept.labels < 0).any():
                raise StageError(
                    f"{record.id}: masks without a cluster cannot become a label map",
                    hint="put a clusterer or a detector before the refiner",
                )
            yield LabelMap.paint(kept)


def confident(scores: NDArray[np.float32], threshold: float, *, keep_best: bool) -> NDArray[np.int64]:
    """Selects the scores above a threshold, compared as float32.

    Args:
        scores: float32 (n,) in [0, 1], in any order.
        threshold: τ; a score must be greater.
        keep_best: Where no score is, select the best (the first of equals).

    Returns:
        Their indices, ascending, int64.
    """
    chosen = np.flatnonzero(scores > np.float32(threshold))
    if keep_best and not len(chosen) and len(scores):
        chosen = np.array([np.argmax(scores)])
    return chosen
