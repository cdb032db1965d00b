"""The hooks of the platform: one to register plugins, three about weights, five to observe runs, two about what a tracker has of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import pluggy

hookspec = pluggy.HookspecMarker("mdp")
hookimpl = pluggy.HookimplMarker("mdp")

Status = Literal["hit", "done", "failed", "interrupted"]


class Registry(Protocol):
    """What ``mdp_register`` receives."""

    def add(self, kind: str, name: str, *, factory: str, config: str | None = None, summary: str = "", api: int = 1) -> None:
        """Adds one plugin.

        Args:
            kind: ``pretrainer``, ``prior``, ``clusterer``, ``detector``, ``refiner``, ``segmenter``, ``dataset`` or ``observer``.
            name: What a recipe writes after ``use:``; lower case with dashes.
            factory: ``"module:Class"`` of the plugin; imported only when a step runs.
            config: ``"module:Class"`` of its settings, in a module that imports nothing heavy; by default the
                factory's ``Config``, which means importing the factory to check a recipe.
            summary: One line for ``mdp plugins list``.
            api: The ``API_VERSION`` that the plugin was written for.
        """


@dataclass(frozen=True)
class StepInfo:
    """One step of a run.

    Attributes:
        id: Unique in the run, for example ``prior.mine[train]``.
        stage: Stage id in the recipe; step: ``mine``, ``fit``, …; plugin: what fills the stage.
        key: The content address of its result.
        unit: What progress counts: ``images`` or ``iterations``.
    """

    id: str
    stage: str
    step: str
    plugin: str
    key: str
    unit: str = "images"


@dataclass(frozen=True)
class StepResult:
    """How a step ended."""

    status: Status
    seconds: float
    notes: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunInfo:
    """A run, as observers see it.

    Attributes:
        id: Unique name of the run and of its folder.
        folder: Where run.json, results and pictures lie.
        home: MDP_HOME, which holds the store.
        resolved: The recipe with every setting, JSON-ready.
        fingerprints: Role (``train``, ``eval``) → fingerprint of its images.
    """

    id: str
    name: str
    folder: Path
    home: Path
    seed: int
    resolved: Mapping[str, Any]
    steps: tuple[StepInfo, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        metrics: Flat name → number, for example ``segmenter.miou``.
        files: Files worth keeping, relative to the run's folder: tables, pictures.
        model: Folder of the final segmenter's model, where there is one.
        error: Message where the run failed.
        weights: Pretrainer stage → its weights: ``PATH sha256:HEX``.
    """

    status: Literal["finished", "failed", "interrupted"]
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    model: Path | None = None
    error: str | None = None
    weights: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WeightsInfo:
    """What is known of weights without using them.

    Attributes:
        ref: As a recipe writes it: ``timm:NAME``, ``file:PATH``, ``builtin:NAME``.
        origin: Where they come from: a link, a path, or words.
        licence: Their licence, or ``unknown``.
        description: What they are, in a sentence.
        parameters: Number of parameters of the backbone, where it can be known.
        size: Bytes of the file; where it is not here, what the parameters take as float32.
        path: Where the file lies, or should lie; None for weights that code makes.
        here: Whether they can be used without a download.
        sha256: What the file's contents should have, where that is recorded.
        problem: Why what is here cannot be used.
        remedy: What to do where they are missing or damaged.
    """

    ref: str
    origin: str
    licence: str
    description: str = ""
    parameters: int | None = None
    size: int | None = None
    path: Path | None = None
    here: bool = True
    sha256: str | None = None
    problem: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Tracking:
    """What a tracker (a plugin that tells another program of runs) has of one run.

    Attributes:
        tracker: The tracker's name, for example ``mlflow``.
        place: Where it sends to, without secrets; empty where that is not decided.
        state: ``complete``; ``sending`` (at it right now); ``incomplete`` (``mdp track sync`` sends the rest); ``untracked``.
        detail: What was sent, and where to look at it.
        problem: Why it is not complete.
    """

    tracker: str
    place: str
    state: Literal["complete", "sending", "incomplete", "untracked"]
    detail: str = ""
    problem: str = ""


class Hooks:
    """The specifications.

    A plugin module implements ``mdp_register``, those about weights, those about tracking, or several; an observer implements
    any of the others.
    """

    @hookspec
    def mdp_register(self, registry: Registry) -> None:
        """Registers plugins; called once, when the host starts. Import nothing heavy here."""

    @hookspec(firstresult=True)
    def mdp_describe_weights(self, ref: str) -> WeightsInfo | None:
        """Says what weights are and whether they are here; loads and fetches nothing. None: not a kind of ours.

        Raises:
            WeightsError: There are no such weights.
        """

    @hookspec(firstresult=True)
    def mdp_fetch_weights(self, ref: str) -> WeightsInfo | None:
        """Downloads weights that are not here, and describes them. None: not a kind of ours.

        Raises:
            WeightsError: There are no such weights, or they cannot be fetched; says what to place where.
        """

    @hookspec
    def mdp_list_weights(self) -> list[WeightsInfo] | None:
        """Returns the built-in weights and those that were downloaded."""

    @hookspec
    def mdp_run_tracking(self, folder: Path, home: Path) -> Tracking | None:
        """Says what this tracker has of the run in ``folder``; connects to nothing. None: this tracker knows nothing of runs."""

    @hookspec
    def mdp_sync_run(self, folder: Path, home: Path, force: bool) -> Tracking | None:
        """Sends what the tracker does not have of the run yet, from the run's journal; with ``force``, all of it anew.

        Raises:
            MdpError: It cannot be sent (the server does not answer); says what to do.
        """

    @hookspec
    def mdp_run_started(self, run: RunInfo) -> None:
        """A run is about to do its first step."""

    @hookspec
    def mdp_step_started(self, run: RunInfo, step: StepInfo) -> None:
        """A step that is not in the store begins."""

    @hookspec
    def mdp_step_progress(self, run: RunInfo, step: StepInfo, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """``done`` of ``total`` images or iterations; ``metrics`` holds losses and the like, and may be empty."""

    @hookspec
    def mdp_step_finished(self, run: RunInfo, step: StepInfo, result: StepResult) -> None:
        """A step ended, or was found in the store (status ``hit``, without a ``mdp_step_started``)."""

    @hookspec
    def mdp_run_finished(self, run: RunInfo, outcome: RunOutcome) -> None:
        """The run ended, in whatever way; the last call."""


class Observer:
    """Base class of observers: implement hooks as methods marked ``@hookimpl``.

    An observer that raises is reported and switched off; it never fails the run.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
