"""The typed recipe, and what it needs to know of the plugins."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Protocol, get_args

from pydantic import AfterValidator, Field, SerializeAsAny

from mdp_core.settings import NoEffect, Settings, StageConfig

STAGE_KINDS = ("pretrainer", "prior", "clusterer", "detector", "refiner", "segmenter", "probe")
"""Kinds of stages of a pipeline, in their usual order."""
SUPPORTED = ("clusterer", "detector")
"""Kinds that learn from the images of ``data.support`` too."""

EvaluationName = Literal[
    "clustering", "clustering-objects", "clustering-majority", "clusters", "instances", "instances-objects", "localisation"
]
"""Protocols that ``evaluate:`` can name (``mdp_core.evaluation``); each name stands for one exact definition, without settings."""
EVALUATIONS: tuple[str, ...] = get_args(EvaluationName)

SECTION_KEYS = ("use",)
"""Keys of the data section and of observers that are not settings of their plugin."""
STAGE_KEYS = ("kind", "use", "input", "support", "time_limit")
"""Keys of a stage that are not settings of its plugin; no plugin can have settings of these names."""


class Catalogue(Protocol):
    """What a recipe needs to know of the plugins."""

    def names(self, kind: str) -> list[str]:
        """Returns the names of a kind's plugins."""

    def config(self, kind: str, name: str) -> type[StageConfig]:
        """Returns the settings model of a plugin.

        Raises:
            PluginError: No such plugin (the message says which is close, the hint which there are), or it is broken.
        """

    def default(self, kind: str) -> str | None:
        """Returns the plugin of a kind where a recipe says no ``use:``; None where there is no default."""

    def resolve_alias(self, kind: str, name: str) -> str:
        """Returns the plugin that an alias stands for, or the name itself."""


class DataSection(Settings):
    """The dataset."""

    use: str
    """Name of the dataset plugin, without aliases."""
    config: SerializeAsAny[StageConfig]
    """Its settings."""


class StageSection(Settings):
    """One stage of the pipeline."""

    kind: str
    """``pretrainer``, ``prior``, ``clusterer``, ``detector``, ``refiner``, ``segmenter`` or ``probe``."""
    use: str
    """Name of the plugin, without aliases."""
    input: str | None = None
    """Id of the earlier stage whose result it takes; by default the nearest one that fits."""
    support: bool = True
    """Whether a clusterer or a detector learns from the images of ``data.support`` as well."""
    time_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Seconds that the plugin may go without a result, where it works image by image (several images that go through a network
    together count as one wait, and loading weights counts with the first); None for no limit. The error names the images."""
    config: SerializeAsAny[StageConfig]
    """Settings of the plugin."""


class ObserverSection(Settings):
    """One observer of the run, beside those of registry.yaml."""

    use: str
    """Name of the observer plugin, without aliases."""
    config: SerializeAsAny[StageConfig]
    """Its settings."""


class ExecutorSection(Settings):
    """Where the work is done; none of it changes a result."""

    use: str
    """Name of the executor plugin, without aliases."""
    config: SerializeAsAny[StageConfig]
    """Its settings."""


class SweepSection(Settings):
    """What ``mdp sweep`` varies; ``mdp run`` takes the recipe as it stands."""

    vary: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """Setting, written with dots as after ``--set``, → list of its values."""
    seeds: Annotated[int, Field(ge=1)] | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    """How many seeds, counted from the recipe's own, or a list of them."""
    zip: bool = False
    """Take the first values together, then the second ones …, in place of all combinations."""
    metrics: tuple[str, ...] = ()
    """What the table of the sweep shows, as after ``mdp compare --metric``; names that no run has are passed over. By default the
    mIoU of every stage."""


def _check_device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError(f"expected auto, cpu, cuda or one GPU such as cuda:1, got {value!r}")
    return value


class Header(Settings):
    """The settings of a recipe that belong to no plugin."""

    name: str = Field(min_length=1)
    """Name of the runs."""
    description: str = ""
    """What the recipe is for, in a sentence."""
    seed: int = Field(0, ge=0, le=2**32 - 1)
    """Seed of everything random."""
    device: Annotated[str, AfterValidator(_check_device), NoEffect] = "auto"
    """Where to compute: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``."""
    evaluate: tuple[EvaluationName, ...] = ()
    """Protocols to evaluate the results with; none by default."""


class Recipe(Header):
    """A whole recipe, checked: every setting is there and of its type."""

    data: DataSection
    """The images."""
    pipeline: dict[str, StageSection]
    """Stage id → stage, in the order of the pipeline."""
    executor: ExecutorSection | None = None
    """Where the work is done; None: the default of registry.yaml."""
    observers: tuple[ObserverSection, ...] = ()
    """Observers of the run, beside those of registry.yaml."""
    sweep: SweepSection | None = None
    """What ``mdp sweep`` varies."""
