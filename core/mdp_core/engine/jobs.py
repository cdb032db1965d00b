"""Jobs: what a worker process is told to do, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mdp_core.data.images import ImageRecord

SHARD_SIZE = 256
"""Images a shard: what is lost at most when a map step is killed. ``MDP_SHARD_SIZE`` overrides it."""


@dataclass(frozen=True)
class Job:
    """One step to do.

    Attributes:
        entry: Folder of the result in the store; payload: what its key was made of.
        images: File with the image records (see ``write_records``).
        dataset: Name and settings of the dataset plugin.
        inputs: Slot → folder of the input's entry.
        plugin_files: One-file plugins to load.
        facts: What an evaluation wants to write down (split, seed …).
        weights: ``file:PATH`` in the settings → ``stage:NAME`` in the recipe, for notes.
    """

    id: str
    stage: str
    kind: str
    step: str
    plugin: str
    settings: Mapping[str, Any]
    entry: str
    payload: Mapping[str, Any]
    images: str
    dataset: tuple[str, Mapping[str, Any]]
    inputs: Mapping[str, str]
    seed: int
    device: str
    plugin_files: tuple[str, ...] = ()
    shard_size: int = SHARD_SIZE
    facts: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)

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


def write_records(path: Path, records: tuple[ImageRecord, ...]) -> None:
    """Writes image records for workers."""
    path.write_text(json.dumps([[r.id, r.height, r.width, r.path] for r in records]), encoding="utf-8")


def read_records(path: Path) -> tuple[ImageRecord, ...]:
    """Reads what ``write_records`` wrote."""
    return tuple(ImageRecord(*row) for row in json.loads(path.read_text(encoding="utf-8")))
