"""Jobs: what is to be done in one step, as JSON, for whichever process does it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from mdp_core.data.images import ImageRecord
from mdp_core.errors import RunError

SHARD_SIZE = 256
"""Images a shard: what is lost at most when a map step is killed. ``MDP_SHARD_SIZE`` overrides it."""


def shard_size() -> int:
    """Returns the images a shard.

    Raises:
        RunError: ``MDP_SHARD_SIZE`` is no positive integer.
    """
    text = os.environ.get("MDP_SHARD_SIZE", str(SHARD_SIZE))
    if not text.isdecimal() or int(text) < 1:
        raise RunError(f"MDP_SHARD_SIZE is {text!r}: expected an integer ≥ 1", hint=f"unset it for {SHARD_SIZE}")
    return int(text)


PART_SUFFIX: Mapping[tuple[str, str], str] = {
    ("prior", "mine"): ".parquet",
    ("clusterer", "embed"): ".safetensors",
    ("clusterer", "assign"): ".parquet",
    ("detector", "predict"): ".parquet",
    ("refiner", "refine"): "",
    ("segmenter", "predict"): "",
    ("probe", "predict"): "",
}
"""The map steps, and how the names of their parts end (label maps are folders); all other steps are done whole."""

SUPPORT = ":support"
"""Ends the slots of a training's further inputs, those of the images of ``data.support``."""


@dataclass(frozen=True)
class Job:
    """One step to do.

    Attributes:
        entry: Folder of the result in the store.
        images: File with the image records (see ``write_records``).
        dataset: Name and settings of the dataset plugin.
        inputs: Slot → folder of the input's entry.
        plugin_files: One-file plugins to load.
        clusters: Number of clusters that the labels of the inputs come from; 0 where labels mean nothing yet.
        facts: What an evaluation wants to write down (split, seed …).
        weights: ``file:PATH`` in the settings → ``stage:NAME`` in the recipe, for notes.
        time_limit: Seconds that the plugin may go without a result in a map step; None for no limit.
    """

    id: str
    stage: str
    kind: str
    step: str
    plugin: str
    settings: Mapping[str, Any]
    entry: str
    images: str
    dataset: tuple[str, Mapping[str, Any]]
    inputs: Mapping[str, str]
    seed: int
    device: str
    plugin_files: tuple[str, ...] = ()
    shard_size: int = SHARD_SIZE
    clusters: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    time_limit: float | None = None

    @property
    def suffix(self) -> str | None:
        """How the names of the parts end; None where the step is no map."""
        return PART_SUFFIX.get((self.kind, self.step))

    def part(self, shard: int) -> str:
        """Returns the name of a shard's part."""
        return f"{shard:05d}{self.suffix or ''}"

    def to_json(self) -> str:
        """Returns one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Reads what ``to_json`` wrote."""
        fields = json.loads(text)
        fields["dataset"] = tuple(fields["dataset"])
        fields["plugin_files"] = tuple(fields["plugin_files"])
        return cls(**fields)


def shards(images: int, size: int) -> list[range]:
    """Cuts 0..images-1 into shards of ``size`` images; the last may be smaller."""
    return [range(start, min(start + size, images)) for start in range(0, images, size)]


def write_records(path: Path, records: tuple[ImageRecord, ...]) -> None:
    """Writes image records for workers."""
    path.write_text(json.dumps([[r.id, r.height, r.width, r.path] for r in records]), encoding="utf-8")


@lru_cache(maxsize=4)
def read_records(path: Path) -> tuple[ImageRecord, ...]:
    """Reads what ``write_records`` wrote; the file of a run is never changed."""
    return tuple(ImageRecord(*row) for row in json.loads(path.read_text(encoding="utf-8")))
