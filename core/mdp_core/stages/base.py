"""What all stages share: a plugin is a class with typed settings and a context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Protocol, TypeVar

from mdp_core.settings import StageConfig

ConfigT = TypeVar("ConfigT", bound=StageConfig)


class Listener(Protocol):
    """Who hears of a step's progress (the engine, or a test)."""

    def progress(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """``done`` of ``total`` (images or iterations), with the metrics at this point (losses, learning rate)."""

    def note(self, name: str, value: str) -> None:
        """A fact for the record of the run, for example the sha256 of weights."""

    def warn(self, message: str) -> None:
        """Something a person should know; the run goes on."""


class Silence:
    """A listener that does not listen."""

    def progress(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Ignores it."""

    def note(self, name: str, value: str) -> None:
        """Ignores it."""

    def warn(self, message: str) -> None:
        """Ignores it."""


@dataclass(frozen=True)
class Context:
    """What a plugin is told beside its settings.

    Attributes:
        seed: Seed of this step; 0 for a step that is not among the config's ``seeded_steps``.
        device: ``"cpu"`` or ``"cuda"`` or ``"cuda:1"`` …
        listener: Takes progress, notes and warnings.
    """

    seed: int = 0
    device: str = "cpu"
    listener: Listener = field(default_factory=Silence)


class Stage(Generic[ConfigT]):
    """Base class of all plugins that fill a stage.

    Class attributes:
        kind: Name of the stage interface, set by the interface.
        Config: The plugin's settings model.

    Args:
        config: Validated settings.
        context: Seed, device and listener.
    """

    kind: ClassVar[str]
    Config: ClassVar[type[StageConfig]]

    def __init__(self, config: ConfigT, context: Context) -> None:
        self.config = config
        self.context = context
