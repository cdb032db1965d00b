"""docs/errors.md: every case with the message that it gives."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from malformed_cases import commands, data, plugins, recipes, weights
from malformed_cases.case import Case, Outcome, run_case

GROUPS: Mapping[str, Sequence[Case]] = {
    "Recipes that are not YAML": recipes.YAML,
    "Settings": recipes.SETTINGS,
    "Plugins and stages of a recipe": recipes.STAGES,
    "Layers of recipes, and the environment": recipes.LAYERS,
    "Command lines": commands.PLAIN,
    "Images": data.IMAGES,
    "Labels": data.LABELS,
    "References to weights": weights.REFERENCES,
    "Files of weights": weights.FILES,
    "Plugins": plugins.PLUGINS,
    "registry.yaml": plugins.REGISTRY,
    "Where results are kept": plugins.RESULTS,
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


def run_all(cases: Sequence[Case]) -> list[Outcome]:
    """Runs cases, a few at a time."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(run_case, cases))


def page(notice: str) -> str:
    """Returns the page, having run every case."""
    outcomes = dict(zip((c.mistake for c in CASES), run_all(CASES), strict=True))
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
