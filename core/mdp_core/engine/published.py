"""What the paper published: its tables with their layout, its numbers, and what they were measured on; read from ``published.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from mdp_core.errors import RunError
from mdp_core.recipe.problems import did_you_mean
from mdp_core.settings import Settings

_FILE = Path(__file__).with_name("published.yaml")
ResultKind = Literal["semantic", "instances", "localisation"]
PROTOCOLS: Mapping[ResultKind, tuple[str, ...]] = {
    "semantic": ("clustering", "clustering-objects", "clustering-majority"),
    "instances": ("instances", "instances-objects"),
    "localisation": ("localisation",),
}
"""Kind of result → the protocols that may fill a column of it, in the order of their columns."""


class StagePattern(Settings):
    """What a stage of a run is, whatever its id."""

    kind: str
    """Kind of stage."""
    after: str | None = None
    """Pattern of the stage whose result it takes; null: it takes none."""
    dense_crf: bool | None = None
    """Whether it is a dense CRF; null: either."""
    settings: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Setting, with dots, or ``use`` for the plugin → the values that it may have; null among them: the stage may lack the setting."""
    excluded: dict[str, tuple[Any, ...]] = Field(default_factory=dict, alias="not")
    """Setting, with dots → values that it must not have."""
    like: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Setting, with dots → patterns of which its value, a text, fits one; upper and lower case are the same."""
    has: tuple[str, ...] = ()
    """Settings that it must have, whatever their values."""
    words: str
    """What it makes, for people."""
    add: str
    """What a pipeline without it lacks, and how to add it."""


class EvaluatedOn(Settings):
    """What the paper's numbers were measured on."""

    words: str
    """Its name."""
    images: int
    """How many images it has."""
    clusters: int | None = None
    """How many clusters the paper made; null: it does not say."""
    classes: int | None = None
    """How many classes it has, background not counted, where ``class_names`` are not given."""
    class_names: tuple[str, ...] = ()
    """Its classes, background first."""


class PaperWeights(Settings):
    """The weights that a kind of stage has in the paper."""

    words: str
    """Their name."""
    like: tuple[str, ...]
    """Patterns of references to them."""


class Column(Settings):
    """One column of a table."""

    title: str
    """Its heading."""
    result: ResultKind
    """Which results of a run it is read from."""
    metric: str
    """Name of the metric; of instances, behind the part's ``setting``."""
    protocols: tuple[str, ...] = ()
    """Protocols that may fill it, one column each; by default all that match clusters with classes."""
    stage: str | None = None
    """Pattern of the stage that it is about, where the column says so and not the row."""

    @property
    def filled_by(self) -> tuple[str, ...]:
        """The protocols that may fill it, in the order of their columns."""
        return self.protocols or PROTOCOLS[self.result]


class PaperRow(Settings):
    """One row of a table."""

    label: str
    """As in the paper."""
    stage: str | dict[str, str] | None = None
    """Pattern of the stage that fills it, of each column where they differ; null: a method that is not ours."""
    published: dict[str, float] = Field(default_factory=dict)
    """Column → the paper's number, in per cent."""
    source: str | None = None
    """Where in the paper the numbers stand; null: where the part's do."""
    note: str | None = None
    """What a reader of the row must know."""
    optional: bool = False
    """Whether nothing is lacking where no run fills it."""

    def pattern(self, column: str) -> str | None:
        """Returns the pattern of the stage that fills a column of this row."""
        return self.stage.get(column) if isinstance(self.stage, dict) else self.stage


class Part(Settings):
    """Rows under one heading."""

    title: str | None = None
    """Its heading."""
    source: str | None = None
    """Where in the paper its numbers stand; null: where the table's do."""
    setting: str | None = None
    """Setting of the instance protocol, such as ``multi.aware``, that stands before the columns' metrics."""
    rows: tuple[PaperRow, ...]
    """The rows."""

    def metric(self, column: Column) -> str:
        """Returns the full name of a column's metric in this part."""
        return f"{self.setting}.{column.metric}" if self.setting and column.result == "instances" else column.metric


class Swept(Settings):
    """The setting on a figure's axis."""

    stage: str
    """Pattern of the stage that has it."""
    setting: str
    """The setting, with dots."""
    chosen: float
    """The value that the paper chose."""


class PublishedTable(Settings):
    """One table or figure of the paper."""

    title: str
    """What it shows."""
    source: str
    """Where in the paper it stands."""
    data: str
    """What it was measured on: a name of ``data``."""
    make: str
    """The command that makes runs for it."""
    evaluate: tuple[str, ...]
    """Protocols that the runs should be evaluated with."""
    columns: dict[str, Column]
    """Name → column."""
    parts: tuple[Part, ...] = ()
    """Its rows; of a figure none, each value of the setting makes one."""
    sweep: Swept | None = None
    """Of a figure: the setting on its axis."""
    turned: bool = False
    """Whether people read it with a line a column and a column a row."""
    notes: tuple[str, ...] = ()
    """What a reader must know."""

    @property
    def layout(self) -> tuple[Part, ...]:
        """The parts; a figure has one row, which each column fills as it says itself."""
        if self.sweep is None:
            return self.parts
        stages = {name: column.stage for name, column in self.columns.items() if column.stage}
        return (Part(rows=(PaperRow(label="", stage=stages),)),)


class Published(Settings):
    """Everything that ``published.yaml`` says."""

    paper: str
    """The paper."""
    stages: dict[str, StagePattern]
    """Name → pattern."""
    data: dict[str, EvaluatedOn]
    """Name → what was evaluated."""
    weights: dict[str, PaperWeights]
    """Kind of stage → the paper's weights."""
    tables: dict[str, PublishedTable]
    """Name → table."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        named = {p.after for p in self.stages.values()} - {None}
        for table in self.tables.values():
            named |= {row.pattern(c) for part in table.layout for row in part.rows for c in table.columns} - {None}
            named |= {table.sweep.stage} if table.sweep else set()
            unknown = {c for part in table.parts for row in part.rows for c in row.published} - set(table.columns)
            if unknown or table.data not in self.data:
                raise ValueError(f"{table.source}: no such columns or data: {sorted(unknown) or table.data}")
        if named - set(self.stages):
            raise ValueError(f"no such stages: {sorted(str(n) for n in named - set(self.stages))}")
        return self

    def table(self, name: str) -> PublishedTable:
        """Returns a table by its name.

        Raises:
            RunError: There is none.
        """
        if name not in self.tables:
            raise RunError(f"no table {name!r}{did_you_mean(name, self.tables)}", hint=f"there are: {', '.join(self.tables)}")
        return self.tables[name]

    def behind(self, name: str) -> tuple[str, ...]:
        """Returns a pattern's name with those of all stages before it, first stage first."""
        after = self.stages[name].after
        return (*(self.behind(after) if after else ()), name)


@cache
def published() -> Published:
    """Returns what the paper published."""
    content: Mapping[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return Published.model_validate(content)
