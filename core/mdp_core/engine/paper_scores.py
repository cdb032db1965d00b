"""The scores of a run, one for each stage and protocol, and which stages are what a table of the paper asks for."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mdp_core.engine.keys import canonical
from mdp_core.engine.lineage import Lineage
from mdp_core.engine.published import PROTOCOLS, Published, ResultKind
from mdp_core.engine.record import RunRecord
from mdp_core.evaluation.instance_result import InstanceResult
from mdp_core.evaluation.semantic import SemanticResult


@dataclass(frozen=True)
class StageScores:
    """What one protocol says of one stage of one run.

    Attributes:
        protocol: Its name, as after ``evaluate:``; ``probe`` for label maps of true classes.
        metrics: Flat name → number; shares in [0, 1].
        classes: Names of the object classes, background left out.
        clusters: How many clusters were matched with them; None where nothing was matched.
        matching, ground_truth, checkpoint: As in the result's protocol, in words.
        single: Of instances: the rule of the single-object setting.
    """

    run: RunRecord
    stage: str
    result: ResultKind
    protocol: str
    metrics: Mapping[str, float]
    split: str
    images: int
    classes: tuple[str, ...] = ()
    clusters: int | None = None
    matching: str = "none"
    ground_truth: tuple[str, ...] = ()
    checkpoint: str = "last"
    dense_crf: bool = False
    single: str = ""


def stage_scores(run: RunRecord) -> Iterator[StageScores]:
    """Yields the scores of a run.

    Raises:
        DataError: They are of a format that this version does not read.
    """
    for row in run.results.get("components", ()):
        yield _semantic(run, row)
    named = [(name, *item) for name in PROTOCOLS["instances"] for item in run.results.get(name, {}).items()]
    for name, stage, content in named:
        found = InstanceResult.from_json({key: value for key, value in content.items() if key != "title"})
        protocol = found.protocol
        yield StageScores(
            run, stage, "instances", name, found.metrics(), protocol.split, protocol.images, found.class_names,
            len(found.class_of_cluster) or None, protocol.matching, protocol.ground_truth, single=protocol.single,
        )  # fmt: skip
    for stage, content in run.results.get("localisation", {}).items():
        metrics = {name: float(v) for name, v in content.items() if isinstance(v, int | float)}
        split = str(run.images.get("eval", {}).get("split"))
        used = (f"scoring (split {split})",)
        yield StageScores(run, stage, "localisation", "localisation", metrics, split, int(content["images"]), ground_truth=used)


def _semantic(run: RunRecord, row: Mapping[str, Any]) -> StageScores:
    found = SemanticResult.from_json(row)
    protocol, name = found.protocol, str(row.get("protocol_name", "clustering"))
    return StageScores(
        run, str(row["stage"]), "semantic", name, found.metrics(), protocol.split, protocol.images, found.class_names[1:],
        None if name == "probe" else len(found.counts) - 1, protocol.matching, protocol.ground_truth, protocol.checkpoint,
        protocol.dense_crf,
    )  # fmt: skip


@dataclass(frozen=True)
class ScoredRun:
    """A run with its scores, and what its stages are.

    Attributes:
        scores: Everything that was evaluated.
        published: The patterns that stages are compared with.
    """

    run: RunRecord
    scores: tuple[StageScores, ...]
    lineage: Lineage
    published: Published
    _matches: dict[tuple[str, str], bool] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def read(cls, run: RunRecord, published: Published) -> ScoredRun:
        """Reads the scores of a run."""
        return cls(run, tuple(stage_scores(run)), Lineage(run), published)

    def is_a(self, stage: str, pattern: str) -> bool:
        """Tells whether a stage is what a pattern of ``published.yaml`` says, with all stages behind it."""
        place = (stage, pattern)
        if place not in self._matches:
            self._matches[place] = self._is_a(stage, pattern)
        return self._matches[place]

    def _is_a(self, stage: str, name: str) -> bool:
        pattern = self.published.stages[name]
        settings = {**self.lineage.settings(stage), "use": self.lineage.plugin(stage)}
        if self.lineage.kind(stage) != pattern.kind:
            return False
        if pattern.dense_crf not in (None, self._is_dense_crf(stage)):
            return False
        if any(settings.get(key) not in values for key, values in pattern.settings.items()):
            return False
        if any(key in settings and settings[key] in values for key, values in pattern.excluded.items()):
            return False
        if not all(_like(settings.get(key), globs) for key, globs in pattern.like.items()) or not set(pattern.has) <= set(
            settings
        ):
            return False
        parent = self.lineage.parent(stage)
        if pattern.after is None or parent is None:
            return pattern.after is None and parent is None
        return self.is_a(parent, pattern.after)

    def has(self, pattern: str) -> bool:
        """Tells whether some stage of the run is what a pattern says."""
        return any(self.is_a(stage, pattern) for stage in self.lineage.stages())

    def _is_dense_crf(self, stage: str) -> bool:
        return any(s.dense_crf for s in self.scores if s.stage == stage)

    def identity(self, stage: str) -> tuple[str, ...]:
        """Returns what sets the results of a stage apart but for the seed: the images, then each stage behind it, first stage first.

        The identity of a stage begins with those of the stages behind it.
        """
        pipeline = self.run.resolved["pipeline"]
        pretrained = {s: section for s, section in pipeline.items() if self.lineage.kind(s) == "pretrainer"}
        images = [[facts.get("fingerprint"), facts.get("truth")] for facts in self.run.images.values()]
        chain = self.lineage.chain(stage)
        own = [[self.lineage.kind(s), self.lineage.plugin(s), dict(self.lineage.settings(s))] for s in chain]
        return (canonical([images, pretrained]), *map(canonical, own))

    def settings(self, stage: str) -> dict[str, Any]:
        """Returns the settings of a stage and of all behind it, ``refiner.threshold`` each, and what images there were."""
        found: dict[str, Any] = {f"{role} images": _words(facts) for role, facts in self.run.images.items()}
        for name in self.lineage.chain(stage):
            found[f"{name}.use"] = self.lineage.plugin(name)
            found |= {f"{name}.{key}": value for key, value in self.lineage.settings(name).items()}
        return found

    def weights(self, stage: str) -> dict[str, str]:
        """Returns the weights that a stage and those behind it started from: stage → what its steps noted."""
        found: dict[str, str] = {}
        for name in self.lineage.chain(stage):
            own = [s for s in self.run.steps if s.stage == name]
            notes = [value for s in own for key, value in s.notes.items() if key == "weights" or key.endswith(" weights")]
            if notes:
                found[name] = "; ".join(dict.fromkeys(notes))
        return found


def _like(value: Any, globs: Sequence[str]) -> bool:
    return isinstance(value, str) and any(fnmatch.fnmatchcase(value.lower(), glob) for glob in globs)


def _words(facts: Mapping[str, Any]) -> str:
    return f"{facts.get('count')} of {facts.get('split')} ({str(facts.get('fingerprint'))[:8]})"
