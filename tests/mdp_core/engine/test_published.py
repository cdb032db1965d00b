"""What the paper published: numbers typed once more, sums that must fit, and no number without a source."""

from __future__ import annotations

import statistics

import pytest
from pydantic import ValidationError

from mdp_core.engine.published import Published, published
from mdp_core.errors import RunError
from mdp_core.recipe.schema import EVALUATIONS, STAGE_KINDS


def number(table: str, row: str, column: str, part: str = "") -> float:
    found = [
        r.published[column]
        for p in published().table(table).parts
        for r in p.rows
        if r.label == row and (p.title or "").startswith(part) and column in r.published
    ]
    assert len(set(found)) == 1, found
    return found[0]


@pytest.mark.parametrize(
    ("table", "row", "column", "value"),
    [
        ("pascal-components", "Self-sup. vision transformer", "miou", 39.0),
        ("pascal-components", "+ Mask R-CNN", "miou", 42.0),
        ("pascal-components", "+ Segmentation model", "miou", 45.8),
        ("pascal-components-extended", "+ Mask R-CNN (bbox)", "miou", 31.8),
        ("pascal-components-extended", "+ GrabCut", "miou", 38.2),
        ("pascal-components-extended", "+ CRF, after two rounds", "miou", 48.9),
        ("pascal-segmentation", "MaskDistill", "lc", 58.7),
        ("pascal-segmentation", "MaskDistill + CRF", "lc", 62.8),
        ("pascal-segmentation", "IIC", "clustering", 9.8),
        ("pascal-segmentation", "MaskContrast", "clustering", 35.0),
    ],
)
def test_numbers_of_the_semantic_tables(table: str, row: str, column: str, value: float) -> None:
    assert number(table, row, column) == value


@pytest.mark.parametrize(
    ("table", "part", "values"),
    [
        ("voc-instances", "(a)", (24.3, 9.9, 6.9)),
        ("coco20k-instances", "(b)", (6.8, 2.9, 2.1)),
        ("voc-instances", "(c)", (32.8, 14.7, 11.8)),
        ("coco20k-instances", "(d)", (14.6, 6.6, 5.5)),
        ("voc-instances", "(e)", (24.8, 10.7, 8.0)),
        ("coco20k-instances", "(f)", (7.7, 3.5, 2.9)),
    ],
)
def test_numbers_of_the_instance_tables(table: str, part: str, values: tuple[float, ...]) -> None:
    assert tuple(number(table, "MaskDistill, Mask R-CNN", c, part) for c in ("ap50", "ap", "ap75")) == values


def test_the_misprint_is_printed_as_it_is_and_noted() -> None:
    assert number("voc-instances", "MaskDistill, initial masks", "ap75", "(a)") == 0.3
    rows = [r for p in published().table("voc-instances").parts for r in p.rows if r.note]
    assert len(rows) == 1
    assert "misprint" in str(rows[0].note)


def test_the_classes_have_the_mean_that_is_printed_beside_them() -> None:
    for part in published().table("pascal-classes").parts:
        for row in part.rows:
            *classes, mean = row.published.values()
            assert len(classes) == 21
            assert statistics.fmean(classes) == pytest.approx(mean, abs=0.11), row.label


def test_tables_agree_with_each_other() -> None:
    for column, label in (("clustering", "MaskDistill"), ("clustering", "MaskDistill + CRF")):
        assert number("pascal-segmentation", label, column) == number("pascal-classes", label, "miou")
    assert number("pascal-segmentation", "MaskDistill", "lc") == number("pascal-classes", "MaskDistill, linear", "miou")
    assert number("pascal-segmentation", "MaskDistill + CRF", "lc") == number(
        "pascal-classes", "MaskDistill + CRF, linear", "miou"
    )


def test_the_names_in_it_are_names() -> None:
    known = published()
    assert {p.kind for p in known.stages.values()} <= set(STAGE_KINDS)
    assert {e for t in known.tables.values() for e in t.evaluate} <= set(EVALUATIONS)
    assert set(known.weights) <= set(STAGE_KINDS)
    assert all(t.source and t.make.startswith("mdp ") for t in known.tables.values())
    assert known.behind("segmenter") == ("masks", "clustered", "detections", "label-maps", "segmenter")


def test_a_mistake_in_the_file_is_found() -> None:
    content = published().model_dump(by_alias=True)
    content["stages"]["crf"]["after"] = "segmentor"
    with pytest.raises(ValidationError, match="segmentor"):
        Published.model_validate(content)
    content = published().model_dump(by_alias=True)
    content["tables"]["voc-instances"]["data"] = "voc"
    with pytest.raises(ValidationError, match="no such columns or data: voc"):
        Published.model_validate(content)


def test_an_unknown_table() -> None:
    with pytest.raises(RunError, match="no table 'pascal-component', did you mean 'pascal-components'") as caught:
        published().table("pascal-component")
    assert "figure-topk" in str(caught.value.hint)
