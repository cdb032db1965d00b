from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field

from mdp_core.plugins.loader import load_plugins
from mdp_core.plugins.settings_docs import describe
from mdp_core.settings import OnlyFor, Settings, StageConfig


class Inner(Settings):
    rate: float = Field(0.1, gt=0, le=1)
    """How fast."""


class Config(StageConfig):
    mode: Literal["a", "b"] = "a"
    """Which
    one."""
    count: Annotated[int, OnlyFor("fit")]
    """How many."""
    sides: tuple[int, ...] = (1, 2)
    """Sides."""
    name: str | None = None
    """A name."""
    fit: Inner = Inner()


def test_every_setting_with_type_range_default_and_meaning() -> None:
    assert [(d.name, d.type, d.default, d.meaning) for d in describe(Config)] == [
        ("mode", "a | b", "a", "Which one."),
        ("count", "integer", "required", "How many."),
        ("sides", "[integer, …]", "[1, 2]", "Sides."),
        ("name", "text | null", "null", "A name."),
        ("fit.rate", "number (> 0, ≤ 1)", "0.1", "How fast."),
    ]


@pytest.mark.parametrize(("kind", "name"), sorted(load_plugins().plugins), ids=str)
def test_every_setting_of_a_shipped_plugin_is_explained(kind: str, name: str) -> None:
    unexplained = [d.name for d in describe(load_plugins().config(kind, name)) if len(d.meaning) < 10]
    assert unexplained == []
