from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp_core.data.instances import Instances
from mdp_core.data.label_map import LabelMap
from mdp_core.data.storage import (
    StoredInstances,
    StoredLabelMaps,
    label_map_name,
    read_embeddings,
    read_instances,
    replacing,
    write_embeddings,
    write_instances,
    write_label_maps,
)
from mdp_core.errors import StoreError


def some_instances(seed: int, count: int) -> Instances:
    rng = np.random.default_rng(seed)
    masks = rng.random((count, 9 + seed % 3, 7)) > 0.5
    return Instances.from_masks(masks, scores=rng.random(count), labels=rng.integers(-1, 300, count))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_instances_come_back_as_they_were(counts: list[int]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "00000.parquet"
        items = [some_instances(i, n) for i, n in enumerate(counts)]
        write_instances(path, [f"image {i}" for i in range(len(items))], items)
        for before, after in zip(items, read_instances(path), strict=True):
            assert (before.size, before.masks) == (after.size, after.masks)
            for name in ("boxes", "scores", "labels"):
                assert np.array_equal(getattr(before, name), getattr(after, name))
                assert getattr(before, name).dtype == getattr(after, name).dtype


def test_embeddings_come_back_by_image(tmp_path: Path) -> None:
    items = [np.zeros((0, 4), np.float32), np.arange(8, dtype=np.float32).reshape(2, 4), np.ones((1, 4), np.float32)]
    write_embeddings(tmp_path / "a.safetensors", items)
    for before, after in zip(items, read_embeddings(tmp_path / "a.safetensors"), strict=True):
        assert np.array_equal(before, after)
    write_embeddings(tmp_path / "b.safetensors", items[:1])
    assert [len(i) for i in read_embeddings(tmp_path / "b.safetensors")] == [0]


def test_label_maps_are_read_when_asked_for(tmp_path: Path) -> None:
    ids = ["a.jpg", "deep/er/b"]
    items = [LabelMap(np.full((3, 4), i, np.uint8)) for i in range(2)]
    write_label_maps(tmp_path / "00000", ids, items)
    stored = StoredLabelMaps([tmp_path / "00000" / label_map_name(i) for i in ids])
    assert len(stored) == 2
    assert np.array_equal(stored[1].values, items[1].values)
    (tmp_path / "00000" / "a.jpg.png").unlink()
    assert np.array_equal(stored[1:][0].values, items[1].values)


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    path = tmp_path / "00000.parquet"
    write_instances(path, ["a"], [some_instances(0, 2)])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(StoreError, match=r"00000\.parquet: cannot be read"):
        StoredInstances([path])


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_replacing_is_all_or_nothing(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "sub" / "target"

    def write(place: Path, text: str) -> None:
        if kind == "folder":
            place.mkdir()
            place = place / "inner"
        place.write_text(text)

    def text() -> str:
        return (target / "inner" if kind == "folder" else target).read_text()

    def fail_in_the_middle() -> None:
        with replacing(target) as place:
            write(place, "second")
            _ = 1 / 0

    with replacing(target) as place:
        write(place, "first")
    with pytest.raises(ZeroDivisionError):
        fail_in_the_middle()
    assert text() == "first"
    with replacing(target) as place:
        write(place, "third")
    assert text() == "third"
    assert [p.name for p in target.parent.iterdir()] == ["target"]
