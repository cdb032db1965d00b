"""Settings of ``promerge``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from mdp_dino.settings.square import SquareConfig


class ProMergeConfig(SquareConfig):
    """Settings of ``promerge``; the defaults are the published ones."""

    trial: ClassVar[Mapping[str, Any]] = {**SquareConfig.trial, "stride": 2, "tau": 0.4, "crf": False}

    stride: int = Field(4, ge=1)
    """Every so many patches, across and down, one is a prompt. Time and memory grow with the number of prompts."""
    tau: float = Field(0.2, ge=-1, lt=1)
    """A prompt selects the patches whose cosine with it is above this."""
    background: float = Field(0.1, ge=0, le=1)
    """What most selections that touch several sides of the image have in common is the background, if it covers at least this share
    of the image; otherwise nothing is taken for background."""
    masks: int | None = Field(None, ge=1)
    """Most masks an image, the largest; null: as many as there are."""
