"""Sweeps, executors and finished runs, asked for with mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from malformed_cases.case import TOY, Case
from malformed_cases.texts import GOOD, toy

_RUN = "20260101-120000-mine-1a2b"


def _sweep(mistake: str, arguments: str, section: str = "", code: int = 2) -> Case:
    files: dict[str, str | bytes | Path] = {"mine.yaml": GOOD + section, "toy.py": TOY}
    return Case(mistake, f"mdp sweep mine.yaml --plugin toy.py --no-track {arguments}".strip(), files, code=code)


SWEEPS: list[Case] = [
    _sweep("nothing to vary", ""),
    _sweep("`--vary` without values", "--vary refiner.threshold"),
    _sweep("`--vary` of a setting that there is not", "--vary refiner.treshold=0.5,0.7"),
    _sweep("`--vary` of a stage that there is not", "--vary refinr.threshold=0.5,0.7"),
    _sweep("`--vary` with a value of the wrong type", "--vary refiner.threshold=0.5,high"),
    _sweep("`--vary` with a list that is not closed", "--vary 'data.objects=[1,2],[1'"),
    _sweep("`--vary` of one setting twice", "--vary refiner.threshold=0.5 --vary refiner.threshold=0.7"),
    _sweep(
        "`--zip` with different numbers of values", "--zip --vary refiner.threshold=0.5,0.7 --vary clusterer.clusters=2,3,4"
    ),
    _sweep("seeds that are no numbers", "--seeds many"),
    _sweep("more runs than anybody wants", "--seeds 20000"),
    _sweep("jobs that are none", "--seeds 2 --jobs 0"),
    _sweep("a `sweep:` section that is a list", "", "sweep: [refiner.threshold]\n"),
    _sweep("a `sweep:` section with a mistyped key", "", "sweep: {varry: {refiner.threshold: [0.5, 0.7]}}\n"),
]

EXECUTORS: list[Case] = [
    toy("an executor that is mistyped", GOOD, "--executor proces"),
    toy("no workers", GOOD, "--workers 0"),
    toy("`executor:` with a mistyped setting", GOOD + "executor: {use: process, worker: 2}\n"),
    toy("`executor:` as a list", GOOD + "executor: [process]\n"),
    toy("workers for an executor that has none", GOOD, "--executor serial --workers 2"),
]


def _run_json(text: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        place = folder / ".mdp" / "runs" / _RUN
        place.mkdir(parents=True)
        (place / "run.json").write_text(text)

    return prepare


def _recorded(**settings: object) -> Callable[[Path], None]:
    record = {
        "id": _RUN, "name": "mine", "seed": 0, "recipe": "mine.yaml", "overrides": [], "resolved": {}, "environment": {},
        "status": "finished", "host": "ada", "process": 1, **settings,
    }  # fmt: skip
    return _run_json(json.dumps(record))


def _runs(mistake: str, command: str, prepare: Callable[[Path], None] | None = None, code: int = 1) -> Case:
    return Case(mistake, command, prepare=prepare, code=code)


RUNS: list[Case] = [
    _runs("repeating a run where there is none", "mdp run --from-run last"),
    _runs("repeating a run that is mistyped", "mdp run --from-run 20260101-120000-mien-1a2b", _recorded()),
    _runs("repeating further back than there are runs", "mdp run --from-run last~3", _recorded()),
    _runs("a recipe, and a run to repeat", "mdp run quickstart --from-run last", _recorded(), 2),
    _runs("`--fresh` without a run to repeat", "mdp run quickstart --fresh", code=2),
    _runs("repeating a run without settings", "mdp run --from-run last", _recorded()),
    _runs("repeating a run whose run.json is cut off", "mdp run --from-run last", _run_json('{"id": "2026')),
    _runs("repeating a run of another program", "mdp run --from-run last", _run_json('{"steps": [{"name": "a"}]}')),
    _runs(
        "repeating a run whose plugin is not installed any more",
        "mdp run --from-run last",
        _recorded(
            resolved={
                "name": "mine",
                "data": {"use": "shapes", "size": 48},
                "pipeline": {"prior": {"use": "bright", "contrast": 1.0}},
            }
        ),
        2,
    ),
    _runs("comparing nothing", "mdp compare", code=1),
    _runs("comparing a run that there is not", "mdp compare last nothing", _recorded()),
    _runs("comparing by a sweep that there is not", "mdp compare --sweep mine", _recorded()),
    _runs("a report of a run that there is not", "mdp report mien", _recorded()),
    _runs("a report where there are no runs", "mdp report"),
    _runs("a run shown that there is not", "mdp runs show mien", _recorded()),
    _runs("a run removed that there is not", "mdp runs rm mien", _recorded()),
    _runs("a result explained that there is not", "mdp cache explain 12ab34cd", _recorded()),
    _runs("an age for `mdp cache gc` that is none", "mdp cache gc --older-than soon", _recorded(), 2),
    _runs("tracking a run that there is not", "mdp track sync mien", _recorded()),
]
