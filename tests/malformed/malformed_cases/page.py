"""docs/errors.md: every case with the message that it gives."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Queue

from malformed_cases import commands, data, evaluation, experiments, plugins, recipes, weights
from malformed_cases.case import Case, Outcome, Runner

GROUPS: Mapping[str, Sequence[Case]] = {
    "Recipes that are not YAML": recipes.YAML,
    "Settings": recipes.SETTINGS,
    "Plugins and stages of a recipe": recipes.STAGES,
    "Layers of recipes, and the environment": recipes.LAYERS,
    "Command lines": commands.PLAIN,
    "Images": data.IMAGES,
    "Labels": data.LABELS,
    "Evaluation": evaluation.EVALUATION,
    "References to weights": weights.REFERENCES,
    "Files of weights": weights.FILES,
    "Networks and devices": weights.NETWORKS,
    "Plugins": plugins.PLUGINS,
    "Datasets of one's own": plugins.DATASETS,
    "registry.yaml": plugins.REGISTRY,
    "Where results are kept": plugins.RESULTS,
    "Sweeps": experiments.SWEEPS,
    "Executors": experiments.EXECUTORS,
    "Finished runs": experiments.RUNS,
}
CASES = [case for cases in GROUPS.values() for case in cases]
WORKERS = 2

INTRODUCTION = """\
# What mdp says to mistakes

Each line of these tables is a mistake that people make, the command, and what it prints on stderr. Nothing here is written by hand: `python docs/generate.py errors`
makes the files of each case, calls the command and writes down the message; a test (`tests/malformed`) does the same and fails where a message changes, where a traceback
appears, or where the exit code is another one.

Exit codes: 2 is a mistake in a recipe or a command line, 1 everything else that stopped the work, 0 a warning after which the work went on. Mistakes in recipes are all
shown at once, each with file, line and column, before any work is done.

The commands are called in `/home/ada/work`; `toy.py` there is `tests/toy_method.py`, a plugin with a small method for each stage.
"""


class Runners:
    """Runs cases, a few at a time, each with the next runner that is free."""

    def __init__(self, workers: int = WORKERS) -> None:
        self._free: Queue[Runner] = Queue()
        for _ in range(workers):
            self._free.put(Runner())
        self._pool = ThreadPoolExecutor(workers)

    def start(self, case: Case) -> Future[Outcome]:
        """Runs a case as soon as a runner is free."""
        return self._pool.submit(self._run, case)

    def _run(self, case: Case) -> Outcome:
        runner = self._free.get()
        try:
            return runner.run(case)
        finally:
            self._free.put(runner)

    def close(self) -> None:
        """Ends all processes; cases that have not begun are left out."""
        self._pool.shutdown(cancel_futures=True)
        while not self._free.empty():
            self._free.get().close()


def run_all(cases: Sequence[Case]) -> list[Outcome]:
    """Runs cases."""
    runners = Runners()
    try:
        return [future.result() for future in [runners.start(case) for case in cases]]
    finally:
        runners.close()


def page(notice: str) -> str:
    """Returns the page, having run every case.

    Raises:
        ValueError: A case ended in another way than it should.
    """
    outcomes = dict(zip((c.mistake for c in CASES), run_all(CASES), strict=True))
    for case in CASES:
        outcome = outcomes[case.mistake]
        if outcome.code != case.code or "Traceback" in outcome.stdout + outcome.stderr:
            raise ValueError(f"{case.mistake}: exit code {outcome.code}, not {case.code}:\n{outcome.stdout}{outcome.stderr}")
    parts = [notice, INTRODUCTION]
    for title, cases in GROUPS.items():
        parts.append(f"## {title}\n")
        rows = [row(case, outcomes[case.mistake]) for case in cases]
        parts.append("\n".join(["| mistake | exit code | message |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def row(case: Case, outcome: Outcome) -> str:
    """Returns the line of the table for a case."""
    command = " ".join([*(f"{k}={v}" for k, v in case.env.items()), case.command])
    return f"| {case.mistake}<br>{_code(command)} | {outcome.code} | {'<br>'.join(map(_code, outcome.message.splitlines()))} |"


def _code(text: str) -> str:
    """Returns a line as code in a table's cell, with its indentation."""
    stripped = text.lstrip(" ")
    indent = "&nbsp;" * (len(text) - len(stripped))
    return f"{indent}<code>{html.escape(stripped, quote=False).replace('|', '&#124;').replace('*', '&#42;').replace('_', '&#95;').replace('`', '&#96;')}</code>"
