"""One shard of a map step: what is kept of a failed attempt, and what is wrong with a result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdp_core.data.images import ImageRecord
from mdp_core.data.instances import Instances
from mdp_core.data.label_map import IGNORE, LabelMap
from mdp_core.data.storage import read_embeddings, read_instances
from mdp_core.engine.jobs import Job
from mdp_core.engine.map_shard import BEGUN, Shard
from mdp_core.engine.store import Entry
from mdp_core.errors import PluginError
from mdp_core.stages.base import Silence

RECORDS = [ImageRecord(f"folder/{n}", 4, 6, None) for n in range(5)]
STEPS = {"prior": "mine", "clusterer": "embed", "segmenter": "predict"}


def shard(folder: Path, kind: str = "prior", clusters: int = 3) -> Shard:
    job = Job(
        id=f"{kind}.step", stage=kind, kind=kind, step=STEPS[kind], plugin="mine", settings={}, entry=str(folder), images="",
        dataset=("shapes", {}), inputs={}, seed=0, device="cpu", clusters=clusters,
    )  # fmt: skip
    entry = Entry(folder, {})
    entry.parts.mkdir(parents=True, exist_ok=True)
    return Shard(job, entry, 0, range(len(RECORDS)), RECORDS, Silence())


def result(kind: str, index: int) -> Any:
    if kind == "prior":
        mask = np.zeros((1, 4, 6), bool)
        mask[0, : 1 + index % 4, 2:5] = True
        return Instances.from_masks(mask, scores=[index / 10])
    if kind == "clusterer":
        return np.full((index, 3), index, np.float32)
    return LabelMap(np.full((4, 6), index % 4, np.uint8), np.full((4, 2, 3), index / 8, np.float16))


def produce(kind: str, fails_at: int | None = None, asked: list[int] | None = None) -> Callable[[range], Iterator[Any]]:
    def make(indices: range) -> Iterator[Any]:
        for index in indices:
            if asked is not None:
                asked.append(index)
            if index == fails_at:
                raise ZeroDivisionError("one by none")
            yield result(kind, index)

    return make


def contents(made: Shard, kind: str) -> list[Any]:
    part = made.entry.parts / made.job.part(0)
    if kind == "prior":
        return [(i.masks, i.scores.tolist(), i.boxes.tolist()) for i in read_instances(part)]
    if kind == "clusterer":
        return [row.tolist() for row in read_embeddings(part)]
    return [LabelMap.from_png(part / f"folder/{n}.png").values.tolist() for n in range(5)] + [
        np.load(part / f"folder/{n}.npy").tolist() for n in range(5)
    ]


@pytest.mark.parametrize("kind", STEPS)
def test_the_next_attempt_goes_on_behind_the_last_result(tmp_path: Path, kind: str) -> None:
    whole = shard(tmp_path / "whole", kind)
    whole.make(produce(kind))
    made = shard(tmp_path / "broken", kind)
    with pytest.raises(ZeroDivisionError) as error:
        made.make(produce(kind, fails_at=3))
    assert error.value.__notes__ == ["(at image folder/3)"]
    assert not list(made.entry.parts.iterdir()), "no part before the shard is whole"
    asked: list[int] = []
    shard(tmp_path / "broken", kind).make(produce(kind, asked=asked))
    assert asked == [3, 4]
    assert contents(made, kind) == contents(whole, kind)
    assert not list((made.entry.folder / BEGUN).iterdir())


def test_a_damaged_rest_is_made_again(tmp_path: Path) -> None:
    made = shard(tmp_path)
    with pytest.raises(ZeroDivisionError):
        made.make(produce("prior", fails_at=3))
    kept = next((tmp_path / BEGUN).glob("*.parquet"))
    kept.write_bytes(kept.read_bytes()[:-3] + b"xyz")
    asked: list[int] = []
    shard(tmp_path).make(produce("prior", asked=asked))
    assert asked == [0, 1, 2, 3, 4]


def test_too_few_after_an_attempt_is_counted_from_there(tmp_path: Path) -> None:
    made = shard(tmp_path)
    with pytest.raises(ZeroDivisionError):
        made.make(produce("prior", fails_at=3))
    with pytest.raises(PluginError, match="prior:mine yielded 0 results for 2 images"):
        shard(tmp_path).make(lambda _: iter(()))


def test_the_images_that_were_read_together_are_named(tmp_path: Path) -> None:
    made = shard(tmp_path)

    def reads_ahead(indices: range) -> Iterator[Any]:
        for index in indices:
            if index == 1:
                made.reading += [RECORDS[n].id for n in range(5)]
                raise ZeroDivisionError
            yield result("prior", index)

    with pytest.raises(ZeroDivisionError) as error:
        made.make(reads_ahead)
    assert error.value.__notes__ == ["(at image folder/1 (it has read folder/2, folder/3, folder/4 too))"]


ONE = np.ones((1, 4, 6), bool)


@pytest.mark.parametrize(
    ("kind", "wrong", "words"),
    [
        ("prior", Instances.from_masks(np.ones((1, 6, 4), bool)), "a result of 6×4 for folder/0, which has 4×6"),
        ("prior", Instances.from_masks(ONE, scores=[np.nan]), "a mask with the score nan for folder/0"),
        ("prior", Instances.from_masks(ONE, scores=[1.5]), "a mask with the score 1.5 for folder/0"),
        ("prior", Instances.from_masks(ONE, boxes=np.array([[3.0, 0, 1, 2]])), "a box that is none for folder/0"),
        ("prior", Instances.from_masks(ONE, boxes=np.array([[0.0, 0, np.inf, 2]])), "a box that is none for folder/0"),
        ("prior", Instances.from_masks(np.stack([ONE[0], ~ONE[0]])), r"an empty mask \(number 1\) for folder/0"),
        ("prior", "masks", "yielded a str for folder/0"),
        ("clusterer", np.array([[1.0, np.inf]]), "an embedding that is not finite for folder/0"),
        ("segmenter", LabelMap(np.full((4, 6), 4, np.uint8)), "a label map with the label 4 for folder/0"),
    ],
)
def test_a_wrong_result_is_named_with_its_plugin_and_image(tmp_path: Path, kind: str, wrong: Any, words: str) -> None:
    with pytest.raises(PluginError, match=words) as error:
        shard(tmp_path, kind).make(lambda indices: iter([wrong] * len(indices)))
    assert f"{kind}:mine" in error.value.message
    assert error.value.hint or isinstance(wrong, str)


@pytest.mark.parametrize("values", [np.full((4, 6), IGNORE, np.uint8), np.full((4, 6), 65535, np.uint16)])
def test_ignored_pixels_are_no_wrong_labels(tmp_path: Path, values: np.ndarray) -> None:
    made = shard(tmp_path, "segmenter")
    made.make(lambda indices: iter([LabelMap(values)] * len(indices)))
    assert made.entry.finished_part(made.job.part(0))
