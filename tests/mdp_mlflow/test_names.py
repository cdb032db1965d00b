"""Names and texts in MLflow's form."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name

from mdp_mlflow.names import flatten, plain_name, redact


def test_flatten_names_every_setting() -> None:
    assert list(flatten({"a": {"b": 1, "c": [1, 2]}, "d": {}, "e": None})) == [
        ("a.b", "1"),
        ("a.c", "[1, 2]"),
        ("d", "{}"),
        ("e", "None"),
    ]


@given(st.text(max_size=300))
def test_mlflow_takes_every_plain_name(name: str) -> None:
    _validate_metric_name(plain_name(name))


def test_names_that_mlflow_takes_stay_as_they_are() -> None:
    for name in ("loss", "segmenter.iou/ring-disc", "lr 0", "verlust/größe"):
        assert plain_name(name) == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://ann:secret@host:80/path", "https://***@host:80/path"),
        ("cannot reach 'postgresql+psycopg2://a:b%40c@db/x' (twice: http://token@h)", None),
        ("https://host/a@b", "https://host/a@b"),
        ("mail ann@host", "mail ann@host"),
        ('{"uri": "sqlite:////home/mlflow.db"}', '{"uri": "sqlite:////home/mlflow.db"}'),
    ],
)
def test_addresses_lose_their_user_part(text: str, expected: str | None) -> None:
    assert redact(text) == (expected or "cannot reach 'postgresql+psycopg2://***@db/x' (twice: http://***@h)")


def test_megabytes_are_redacted_in_no_time() -> None:
    text = "y" * 3_000_000 + " http://a:b@c " + "z" * 3_000_000
    began = time.process_time()
    assert "http://***@c" in redact(text)
    assert time.process_time() - began < 2
