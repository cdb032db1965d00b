from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mdp_core.api import Context, DataError, ImageRecord, Source
from mdp_datasets.settings import ShapesConfig
from mdp_datasets.shapes import Shapes


def shapes(**settings: Any) -> Shapes:
    return Shapes(ShapesConfig(**{"size": 48, "train_images": 12, "val_images": 5, **settings}), Context())


def record(source: Source) -> ImageRecord:
    assert source.size is not None
    return ImageRecord(source.id, *source.size)


def test_splits_have_the_images_asked_for() -> None:
    dataset = shapes()
    train, val = list(dataset.sources("train")), list(dataset.sources("val"))
    assert [source.id for source in train] == [f"train/{number:05d}" for number in range(12)]
    assert [source.id for source in val] == [f"val/{number:05d}" for number in range(5)]
    assert all(source.path is None and source.truth == () and source.size == (48, 48) for source in train + val)
    assert len({source.content for source in train + val}) == 17


def test_defaults() -> None:
    config = ShapesConfig()
    assert (config.level, config.size, config.train_images, config.val_images, config.objects) == (
        "easy",
        128,
        400,
        100,
        (1, 3),
    )


def test_no_scene_is_in_both_splits() -> None:
    dataset = shapes(train_images=40, val_images=40)
    images = {dataset.read(record(source)).tobytes() for split in ("train", "val") for source in dataset.sources(split)}
    assert len(images) == 80


def test_scenes_do_not_depend_on_the_number_of_images() -> None:
    few, many = shapes(train_images=3, val_images=2), shapes(train_images=9, val_images=7)
    for split in ("train", "val"):
        for a, b in zip(few.sources(split), many.sources(split), strict=False):
            assert a == b
            np.testing.assert_array_equal(few.read(record(a)), many.read(record(b)))


@pytest.mark.parametrize("other", [{"seed": 1}, {"level": "hard"}, {"size": 49}, {"objects": (1, 2)}, {"objects": (2, 3)}])
def test_content_says_what_pixels_depend_on(other: dict[str, Any]) -> None:
    contents = [{source.content for source in shapes(**settings).sources("train")} for settings in ({}, other)]
    assert not contents[0] & contents[1]
    assert contents[0] == {source.content for source in shapes(min_side=5, on_bad_image="error").sources("train")}
    assert all("version=1" in (content or "") for content in contents[0])


def test_read_depends_on_the_record_alone() -> None:
    dataset = shapes()
    last, first = ImageRecord("train/00011", 48, 48), ImageRecord("train/00000", 48, 48)
    before = dataset.read(first)
    assert (dataset.read(last) != before).any()
    np.testing.assert_array_equal(dataset.read(first), before)


def test_truth_of_both_kinds_agrees() -> None:
    dataset = shapes(level="hard")
    assert dataset.class_names == (
        "background", "ring-disc", "striped-triangle", "checked-rectangle", "dotted-star", "grained-cross",
    )  # fmt: skip
    for source in dataset.sources("val"):
        labels, instances = dataset.label_map(record(source)), dataset.instances(record(source))
        literal = np.zeros(labels.size, int)
        for mask, label in zip(instances.to_masks(), instances.labels, strict=True):
            assert not literal[mask].any()
            literal[mask] = label + 1
        np.testing.assert_array_equal(labels.values, literal)
        assert labels.values.dtype == np.uint8
        assert dataset.read(record(source)).shape == (48, 48, 3)


def test_unknown_split() -> None:
    with pytest.raises(DataError, match=r"no split 'vall', did you mean 'val'\?\n.*train, val"):
        list(shapes().sources("vall"))


@pytest.mark.parametrize(
    "bad",
    [{"objects": (3, 1)}, {"objects": (0, 2)}, {"objects": (1, 9)}, {"size": 31}, {"train_images": 0}, {"seed": -1}, {"level": "x"},
     {"train": "test"}, {"eval": "all"}, {"images": 3}],
)  # fmt: skip
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ShapesConfig(**bad)


def test_mixed_takes_easy_and_hard_scenes_in_turns() -> None:
    easy, hard, mixed = (shapes(level=level) for level in ("easy", "hard", "mixed"))
    for split in ("train", "val"):
        for number, source in enumerate(mixed.sources(split)):
            same = easy if number % 2 == 0 else hard
            twin = list(same.sources(split))[number]
            assert source == twin, "one content, one key: a scene is shared with the level that it comes from"
            np.testing.assert_array_equal(mixed.read(record(source)), same.read(record(twin)))
            here, there = mixed.instances(record(source)), same.instances(record(twin))
            np.testing.assert_array_equal(here.to_masks(), there.to_masks())
            np.testing.assert_array_equal(here.labels, there.labels)
