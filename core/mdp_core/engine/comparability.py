"""Whether the numbers of runs may stand in one table: same images, same truth, same protocol, labels used alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mdp_core.engine.keys import canonical
from mdp_core.engine.record import RunRecord
from mdp_core.engine.store import read_json

_NOT_PROTOCOL = ("seed", "ground_truth")
"""Parts of a protocol that are compared elsewhere: seeds are what is averaged over, labels are named by ``labels_used``."""
Fact = Callable[[RunRecord], Any]


def comparability_warnings(groups: Sequence[Sequence[RunRecord]]) -> list[str]:
    """Returns the reasons why the numbers of groups of runs cannot be compared, in sentences that name their rows."""
    facts: tuple[tuple[str, Fact], ...] = (
        ("the runs were evaluated on different images, so their numbers cannot be compared", _images),
        ("the runs were evaluated with different ground truth, so their numbers cannot be compared", _truth),
        ("the runs were evaluated by different versions of the protocol, so their numbers cannot be compared", _version),
        ("the runs were evaluated by different protocols, so their numbers cannot be compared", _protocol),
        ("the runs differ in the labels that were used", lambda run: dict(run.labels_used)),
    )
    found = []
    for sentence, fact in facts:
        rows: dict[str, set[int]] = {}
        what: dict[str, Any] = {}
        for row, runs in enumerate(groups, 1):
            for value in [v for v in map(fact, runs) if v is not None]:
                rows.setdefault(canonical(value), set()).add(row)
                what[canonical(value)] = value
        if len(rows) > 1:
            sides = [f"{_rows(where)}: {_words(what[key], list(what.values()))}" for key, where in rows.items()]
            found.append(f"{sentence} ({'; '.join(sides)})")
    if len(found) == 0 or not found[-1].startswith("the runs differ in the labels"):
        used = {stage: how for runs in groups for run in runs for stage, how in run.labels_used.items()}
        if used:
            found.append("labels were used in all of the runs: " + "; ".join(f"{s}: {how}" for s, how in used.items()))
    return found


def provenance_notes(runs: Sequence[RunRecord]) -> list[str]:
    """Returns in which libraries and commits runs differ."""
    libraries = [dict(run.environment.get("libraries") or {}) for run in runs]
    names = dict.fromkeys(name for found in libraries for name in found)
    differ = {n: list(dict.fromkeys(str(found.get(n, "none")) for found in libraries)) for n in names}
    notes = [f"{name} {' and '.join(versions)}" for name, versions in differ.items() if len(versions) > 1]
    commits = list(dict.fromkeys(str((run.environment.get("git") or {}).get("commit"))[:10] for run in runs))
    if len(commits) > 1:
        notes.append(f"commits {' and '.join(commits)}")
    return [f"the runs were made with different versions: {', '.join(notes)}"] if notes else []


def _images(run: RunRecord) -> Any:
    """What the evaluated images contained; None where nothing was evaluated."""
    facts = run.images.get("eval")
    return [facts.get("fingerprint")] if facts and run.metrics else None


def _payloads(run: RunRecord) -> list[Mapping[str, Any]]:
    """What the keys of a run's evaluations were made of, where the store still has them."""
    steps = [step for step in run.steps if step.kind == "evaluate"]
    files = [run.home / "store" / f"{s.kind}-{s.step}" / s.key / "key.json" for s in steps]
    return [payload for file in files if (payload := read_json(file)) is not None]


def _truth(run: RunRecord) -> Any:
    truth = run.images.get("eval", {}).get("truth")
    return [truth] if truth and run.metrics else None


def _version(run: RunRecord) -> Any:
    return {str(p.get("step")): p.get("version") for p in _payloads(run)} or None


def _protocol(run: RunRecord) -> Any:
    rows = [row.get("protocol", {}) for row in run.results.get("components", ())]
    found = {canonical(p): p for row in rows for p in [{k: v for k, v in row.items() if k not in _NOT_PROTOCOL}]}
    return list(found.values()) or None


def _rows(rows: set[int]) -> str:
    return f"row{'s' * (len(rows) > 1)} {', '.join(map(str, sorted(rows)))}"


def _words(value: Any, others: Sequence[Any]) -> str:
    """Returns the parts of a fact in which it differs from the others, in short."""
    if isinstance(value, list) and all(isinstance(v, dict) for v in value):
        value, others = value[0], [o[0] for o in others]
    if isinstance(value, dict):
        names = [n for n in value if any(not isinstance(o, dict) or o.get(n) != value[n] for o in others)]
        return ", ".join(f"{name}: {value[name]}" for name in names) or "none"
    return ", ".join(str(v)[:12] for v in value)
