"""The files of instances, embeddings and label maps: one part a shard, written to a temporary name and renamed."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from mdp_core.data.instances import Instances
from mdp_core.data.label_map import LabelMap
from mdp_core.errors import StoreError

_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("mask", pa.list_(pa.binary())),
        ("box", pa.list_(pa.list_(pa.float32(), 4))),
        ("score", pa.list_(pa.float32())),
        ("label", pa.list_(pa.int32())),
    ]
)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside ``path`` to write a file or a folder to; renames it into place when the block ends well.

    The contents are flushed to disk before the rename, so that after a crash ``path`` is either whole or absent.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        for file in [temporary] if temporary.is_file() else [p for p in temporary.rglob("*") if p.is_file()]:
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if path.is_dir():
            shutil.rmtree(path)
        temporary.rename(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_instances(path: Path, ids: Sequence[str], items: Sequence[Instances]) -> None:
    """Writes one Parquet part, one row an image (images without instances have a row with empty lists)."""
    columns = {
        "image_id": list(ids),
        "height": [i.height for i in items],
        "width": [i.width for i in items],
        "mask": [list(i.masks) for i in items],
        "box": [i.boxes.tolist() for i in items],
        "score": [i.scores.tolist() for i in items],
        "label": [i.labels.tolist() for i in items],
    }
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns, schema=_SCHEMA), temporary, compression="zstd")


def read_instances(path: Path) -> list[Instances]:
    """Reads one Parquet part.

    Raises:
        StoreError: The file is damaged.
    """
    try:
        with pq.ParquetFile(path) as file:  # read_table would import pyarrow.dataset and pandas
            rows = file.read().to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{path}: cannot be read as instances ({error})") from error
    return [
        Instances(
            height=row["height"],
            width=row["width"],
            masks=tuple(row["mask"]),
            boxes=np.array(row["box"], dtype=np.float32).reshape(-1, 4),
            scores=np.array(row["score"], dtype=np.float32),
            labels=np.array(row["label"], dtype=np.int32),
        )
        for row in rows
    ]


def write_embeddings(path: Path, items: Sequence[NDArray[np.float32]]) -> None:
    """Writes one safetensors part: the rows of all images one after the other, and how many each image has."""
    counts = np.array([len(item) for item in items], dtype=np.int64)
    width = next((item.shape[1] for item in items if len(item)), 0)
    rows = [np.ascontiguousarray(item, dtype=np.float32) for item in items if len(item)]
    stacked = np.concatenate(rows) if rows else np.zeros((0, width), np.float32)
    with replacing(path) as temporary:
        save_file({"embeddings": stacked, "counts": counts}, temporary)


def read_embeddings(path: Path) -> list[NDArray[np.float32]]:
    """Reads one safetensors part: float32 (n_i, d) an image."""
    tensors = load_file(path)
    ends = np.cumsum(tensors["counts"])
    return [tensors["embeddings"][end - count : end] for count, end in zip(tensors["counts"], ends, strict=True)]


def label_map_name(image_id: str) -> str:
    """Returns the file name of an image's label map inside a part: ``/`` stays a folder, ``.png`` is added."""
    return f"{image_id}.png"


def _probabilities(label_map: Path) -> Path:
    """Returns the file of the probabilities that belong to a label map's file."""
    return label_map.with_name(f"{label_map.name.removesuffix('.png')}.npy")


def write_label_maps(folder: Path, ids: Sequence[str], items: Sequence[LabelMap]) -> None:
    """Writes one part: a folder of palette PNGs, each with a ``.npy`` of probabilities beside it where there are some."""
    with replacing(folder) as temporary:
        for image_id, item in zip(ids, items, strict=True):
            file = temporary / label_map_name(image_id)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(item.to_png())
            if item.probabilities is not None:
                np.save(_probabilities(file), item.probabilities, allow_pickle=False)


class StoredInstances(Sequence[Instances]):
    """The instances of all images of a step, read part by part (run lengths: about a kilobyte an image)."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._items = [item for part in parts for item in read_instances(part)]

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Instances: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Instances]: ...
    def __getitem__(self, index: int | slice) -> Instances | Sequence[Instances]:
        return self._items[index]


class StoredLabelMaps(Sequence[LabelMap]):
    """The label maps of all images of a step; each is read when asked for."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = tuple(files)

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> LabelMap: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LabelMap]: ...
    def __getitem__(self, index: int | slice) -> LabelMap | Sequence[LabelMap]:
        if isinstance(index, slice):
            return StoredLabelMaps(self._files[index])
        label_map, probabilities = LabelMap.from_png(self._files[index]), _probabilities(self._files[index])
        if not probabilities.is_file():
            return label_map
        try:
            return LabelMap(label_map.values, np.load(probabilities, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise StoreError(f"{probabilities}: cannot be read as probabilities ({error})") from error
