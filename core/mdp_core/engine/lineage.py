"""Lineage: which stages of a run stand behind a stage, told from what the keys of its steps were made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mdp_core.engine.record import RunRecord
from mdp_core.engine.store import read_json
from mdp_core.errors import RunError

_KEYS = ("kind", "use", "input", "time_limit")


@dataclass(frozen=True)
class Lineage:
    """The stages of a run, and what each took its input from.

    Args:
        run: A finished run; its store is there.
    """

    run: RunRecord
    _parents: dict[str, str | None] = field(default_factory=dict, init=False, repr=False)

    def kind(self, stage: str) -> str:
        """Returns the kind of a stage."""
        return str(self._section(stage).get("kind", stage))

    def settings(self, stage: str) -> Mapping[str, Any]:
        """Returns the settings of a stage's plugin, by dotted name."""
        return dict(_flat({k: v for k, v in self._section(stage).items() if k not in _KEYS}))

    def plugin(self, stage: str) -> str:
        """Returns the plugin of a stage."""
        return str(self._section(stage).get("use"))

    def stages(self) -> tuple[str, ...]:
        """Returns the ids of the stages that the run has results of, in the order of the pipeline."""
        return tuple(s for s in self.run.resolved["pipeline"] if s in self.run.outputs)

    def chain(self, stage: str) -> tuple[str, ...]:
        """Returns a stage with all those before it whose results it goes back to, first stage first."""
        found = [stage]
        while (parent := self.parent(found[0])) is not None:
            found.insert(0, parent)
        return tuple(found)

    def parent(self, stage: str) -> str | None:
        """Returns the stage whose result a stage takes; None where it takes none.

        Raises:
            RunError: The store does not know any more what the run's steps were made of.
        """
        if stage not in self._parents:
            self._parents[stage] = self._find_parent(stage)
        return self._parents[stage]

    def _section(self, stage: str) -> Mapping[str, Any]:
        section: Mapping[str, Any] = self.run.resolved["pipeline"][stage]
        return section

    @cached_property
    def _by_key(self) -> dict[str, str]:
        """Key of a result → id of its step."""
        return {step.key: step.id for step in self.run.steps}

    def _find_parent(self, stage: str) -> str | None:
        first = self.run.outputs[stage]
        own = first.partition(".")[0]  # stages that do the same share their steps, under the id of the first of them
        pending, seen = [first], set[str]()
        while pending:
            step = pending.pop()
            if step.partition(".")[0] != own:
                return step.partition(".")[0]
            seen.add(step)
            pending += [known for key in self._inputs(step) if (known := self._by_key.get(key)) and known not in seen]
        return None

    def _inputs(self, step: str) -> list[str]:
        made = self.run.step(step)
        file = self.run.home / "store" / f"{made.kind}-{made.step}" / made.key / "key.json" if made else Path(step)
        payload = read_json(file)
        if payload is None:
            raise RunError(
                f"{self.run.id}: {file} is not there, so nobody can tell which stage took its input from which",
                hint="tables need the store that a run was made in; run its recipe again there",
            )
        return list(map(str, payload.get("inputs", {}).values()))


def _flat(tree: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in tree.items():
        found += _flat(value, f"{before}{name}.") if isinstance(value, Mapping) and value else [(f"{before}{name}", value)]
    return found
