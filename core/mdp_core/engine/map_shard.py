"""One shard of a map step: asks the plugin for one result an image, in order, checks each, and writes them as a part.

Where the plugin fails or takes too long, the results it has yielded are kept aside, and the next attempt goes on behind them: a
map step is a pure function of each image.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mdp_core.data.images import ImageRecord
from mdp_core.data.instances import Instances
from mdp_core.data.label_map import IGNORE, IGNORE_16, LabelMap
from mdp_core.data.storage import (
    StoredLabelMaps,
    label_map_name,
    read_embeddings,
    read_instances,
    write_embeddings,
    write_instances,
    write_json,
    write_label_maps,
)
from mdp_core.engine.jobs import Job
from mdp_core.engine.patience import Patience
from mdp_core.engine.store import Entry, contents_sha256, read_json, remove
from mdp_core.errors import MdpError, PluginError
from mdp_core.stages.base import Listener

BEGUN = "begun"
"""Folder of an entry that holds what failed shards had finished."""
Produce = Callable[[range], Iterator[Any]]
"""Indices of images → one result each."""


@dataclass
class Shard:
    """A shard to make.

    Attributes:
        indices: Of its images among those of the step.
        records: Its images.
        reading: Ids of the images that the plugin has asked for; the step's image source adds to it.
    """

    job: Job
    entry: Entry
    number: int
    indices: range
    records: Sequence[ImageRecord]
    listener: Listener
    reading: deque[str] = field(default_factory=deque)

    def make(self, produce: Produce) -> None:
        """Makes the shard, unless it is there.

        Raises:
            PluginError: A result is not what its stage promises, or takes longer than the step's time limit.
        """
        if self.entry.finished_part(self._name):
            return
        items = self._begun()
        before, rest = len(items), self.indices[len(items) :]
        self.reading.clear()
        try:
            with Patience(self.job.time_limit, lambda: self._late(len(items)), self.listener) as patience:
                for item in produce(rest) if rest else ():
                    self._check(item, len(items))
                    items.append(item)
                    patience.renew()
                    self.listener.progress(len(items), len(self.indices), {})
            if len(items) < len(self.indices):
                raise self._miscounted(f"{len(items) - before}", before)
        except Exception as error:
            self._keep(items)
            if not isinstance(error, MdpError):
                error.add_note(f"({self._where(len(items))})")
            raise
        self._write(self.entry.parts / self._name, items)
        self.entry.stamp_part(self._name)
        remove(self._aside)
        self._aside_stamp.unlink(missing_ok=True)

    # What failed attempts had finished

    @property
    def _name(self) -> str:
        return self.job.part(self.number)

    @property
    def _aside(self) -> Path:
        return self.entry.folder / BEGUN / self._name

    @property
    def _aside_stamp(self) -> Path:
        return self._aside.with_name(f"{self._aside.stem}.json")

    def _begun(self) -> list[Any]:
        """Returns the results of the first images of the shard that an earlier attempt left; nothing where they are damaged."""
        stamp = read_json(self._aside_stamp)
        if stamp is None or contents_sha256(self._aside) != stamp.get("sha256"):
            return []
        return list(self._read(self._aside, int(stamp["images"])))

    def _keep(self, items: Sequence[Any]) -> None:
        if items:
            self._write(self._aside, items)
            write_json(self._aside_stamp, {"images": len(items), "sha256": contents_sha256(self._aside)})

    def _write(self, path: Path, items: Sequence[Any]) -> None:
        ids = [record.id for record in self.records[: len(items)]]
        if self.job.suffix == ".safetensors":
            write_embeddings(path, items)
        elif self.job.suffix == ".parquet":
            write_instances(path, ids, items)
        else:
            write_label_maps(path, ids, items)

    def _read(self, path: Path, images: int) -> Sequence[Any]:
        if self.job.suffix == ".safetensors":
            return read_embeddings(path)
        if self.job.suffix == ".parquet":
            return read_instances(path)
        return StoredLabelMaps([path / label_map_name(record.id) for record in self.records[:images]])

    # What plugins do wrong

    @property
    def _plugin(self) -> str:
        return f"{self.job.kind}:{self.job.plugin}"

    def _check(self, item: Any, index: int) -> None:
        """Checks the result of the shard's image ``index``.

        Raises:
            PluginError: It is not what the stage promises; the message names the plugin and the image.
        """
        if index == len(self.indices):
            raise self._miscounted("more than " + str(index), 0)
        record = self.records[index]
        if isinstance(item, Instances | LabelMap):
            if item.size != (record.height, record.width):
                raise PluginError(
                    f"{self._plugin} gave a result of {item.size[0]}×{item.size[1]} for {record.id}, which has {record.height}×{record.width} (height×width)",
                    hint="results are at the image's own size",
                )
            problem = _flaw(item, self.job)
        elif isinstance(item, np.ndarray) and item.ndim == 2:
            problem = None if np.isfinite(item).all() else ("an embedding that is not finite", "look at what it divides by")
        else:
            raise PluginError(f"{self._plugin} yielded a {type(item).__name__} for {record.id} in step {self.job.id}")
        if problem is not None:
            raise PluginError(f"{self._plugin} gave {problem[0]} for {record.id}", hint=problem[1])

    def _miscounted(self, count: str, before: int) -> PluginError:
        return PluginError(
            f"{self._plugin} yielded {count} results for {len(self.indices) - before} images in step {self.job.id}",
            hint="a plugin yields exactly one result an image, in order",
        )

    def _unfinished(self, done: int) -> list[str]:
        """Returns the images without a result that the plugin has begun to read; the next one where it reads none."""
        finished = {record.id for record in self.records[:done]}
        begun = [image for image in dict.fromkeys(self.reading) if image not in finished]
        return begun or [record.id for record in self.records[done : done + 1]]

    def _where(self, done: int) -> str:
        images = self._unfinished(done)
        behind = f" (it has read {_listed(images[1:])} too)" if images[1:] else ""
        return f"at image {images[0]}{behind}" if images else "after the last image"

    def _late(self, done: int) -> PluginError:
        return PluginError(
            f"{self._plugin} has made no result for {self.job.time_limit:g} s {self._where(done)}",
            hint=f"leave the image out, or raise pipeline.{self.job.stage}.time_limit; what is finished is kept",
        )


def _listed(images: Sequence[str]) -> str:
    return ", ".join(images[:6]) + (f" and {len(images) - 6} more" if len(images) > 6 else "")


def _flaw(item: Instances | LabelMap, job: Job) -> tuple[str, str] | None:
    """Returns what is wrong with the numbers of a result, and what to do about it."""
    if isinstance(item, LabelMap):
        ignored = IGNORE if item.values.dtype == np.uint8 else IGNORE_16
        strange = item.values[(item.values > job.clusters) & (item.values != ignored)]
        if job.kind != "probe" and job.clusters and strange.size:
            return (
                f"a label map with the label {strange[0]}",
                f"there are {job.clusters} clusters: labels are 0 to {job.clusters}",
            )
        return None
    if not ((item.scores >= 0) & (item.scores <= 1)).all():
        wrong = item.scores[~((item.scores >= 0) & (item.scores <= 1))][0]
        return f"a mask with the score {wrong:g}", "scores are numbers from 0 to 1; 1 where there is no opinion"
    if not np.isfinite(item.boxes).all() or (item.boxes[:, 2:] < item.boxes[:, :2]).any():
        return "a box that is none", "boxes are x0 y0 x1 y1 in pixels, x0 ≤ x1 and y0 ≤ y1"
    areas = item.areas()
    if job.kind == "prior" and (areas == 0).any():
        return f"an empty mask (number {int(np.argmin(areas))})", "leave empty masks out; an image may have no mask at all"
    return None
