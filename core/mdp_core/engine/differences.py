"""What differs between a step and the stored results of the same step, in words for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mdp_core.engine.cache import Stored
from mdp_core.engine.plan import Step

_ABSENT = "not set"


@dataclass(frozen=True)
class Change:
    """One setting that differs from a stored result's.

    Attributes:
        setting: With dots, as ``--set`` takes it: ``detector.fit.iters``, ``detector.use``, ``seed``; or what differs, in words.
        old: As stored; new: as wanted. JSON-ready.
        in_words: ``setting`` says it all.
    """

    setting: str
    old: Any = None
    new: Any = None
    in_words: bool = False

    def __str__(self) -> str:
        if self.in_words:
            return self.setting
        return f"{self.setting}: {_short(self.old)} → {_short(self.new)}"


@dataclass(frozen=True)
class Nearest:
    """The stored result of the same step that is most like the one wanted.

    Attributes:
        changes: What differs and is a person's to change: settings, seed, plugin, images.
        inputs: Slots whose contents differ.
    """

    stored: Stored
    changes: tuple[Change, ...]
    inputs: tuple[str, ...]


def nearest(step: Step, there: Sequence[Stored]) -> list[Nearest]:
    """Returns complete results of a step, the most alike first (then the newest)."""
    found = []
    for stored in there:
        if stored.manifest is not None and stored.entry.payload:
            changes, inputs = compare(step, stored.entry.payload)
            found.append(Nearest(stored, tuple(changes), tuple(inputs)))
    return sorted(found, key=lambda n: (len(n.changes) + len(n.inputs), -n.stored.completed))


def compare(step: Step, stored: Mapping[str, Any]) -> tuple[list[Change], list[str]]:
    """Returns what a step's payload has other than a stored one's: changes, and slots of inputs (``weights`` for trainings)."""
    changes: list[Change] = []
    inputs: list[str] = []
    for path, old, new in _differences(stored, step.payload):
        if path[0] == "inputs":
            inputs.append(path[-1])
        elif path[0] == "settings":
            if all(isinstance(v, str) and v.startswith("stage-key:") for v in (old, new)):
                inputs.append("weights")
            else:
                changes.append(Change(".".join((step.stage, *path[1:])), _shown(old), _shown(new)))
        else:
            changes.append(_other(step, path, old, new))
    return changes, sorted(set(inputs))


def _differences(old: Any, new: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            yield from _differences(old.get(name, _ABSENT), new.get(name, _ABSENT), (*path, str(name)))
    elif old != new:
        yield path, old, new


def _other(step: Step, path: tuple[str, ...], old: Any, new: Any) -> Change:
    """Names a difference that is not one of settings or inputs."""
    if path == ("seed",):
        return Change("seed", _shown(old), _shown(new))
    if path == ("plugin", "name"):
        return Change(f"{step.stage}.use", old, new)
    words = {
        ("plugin", "code"): f"another {'file' if 'file-sha256:' in f'{old}{new}' else 'package'} of the plugin",
        ("plugin", "version"): "another version of the plugin",
        ("images",): "other images",
        ("truth",): "other labels",
        ("version",): "another version of the evaluation",
        ("format",): "another version of the store",
    }
    return Change(words[path], in_words=True) if path in words else Change(".".join(path), _shown(old), _shown(new))


def _shown(value: Any) -> Any:
    """Returns a value of a payload as a person knows it."""
    if isinstance(value, str) and value.startswith("file-sha256:"):
        return f"file {value.removeprefix('file-sha256:')[:12]}…"
    if isinstance(value, str) and value.startswith("stage-key:"):
        return "a stage's weights"
    return value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 48 else text[:47] + "…"
