"""The list of checks: each is a function with a name, the kinds it is for, and one line that says what it demands and why."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mdp_core.errors import PluginError
from mdp_core.plugins.loader import KINDS
from mdp_core.recipe.problems import did_you_mean

if TYPE_CHECKING:
    from mdp_core.testing.trial import Trial

MAKERS = ("prior", "clusterer", "detector", "refiner", "segmenter", "probe")
"""Kinds that make something of each image."""
LEARNERS = ("clusterer", "detector", "segmenter", "probe")
"""Kinds that learn first, and then make something of each image."""
TRAINERS = ("pretrainer", "detector", "segmenter", "probe")
"""Kinds whose training can be interrupted and resumed."""
_MODULES = ("settings_checks", "result_checks", "repeat_checks", "odd_checks", "manner_checks", "fit_checks", "other_kinds")

CheckFunction = Callable[["Trial"], None]


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: Name of its function, for example ``scores_are_shares``.
        kinds: Kinds of plugins that it is for.
        demand: What it demands and why, in one line.
        function: Does it: returns where all is well.
    """

    name: str
    kinds: tuple[str, ...]
    demand: str
    function: CheckFunction


_CHECKS: dict[str, Check] = {}


def check(*kinds: str) -> Callable[[CheckFunction], CheckFunction]:
    """Marks a function as a check for some kinds; its docstring is the demand."""

    def register(function: CheckFunction) -> CheckFunction:
        demand = " ".join((inspect.getdoc(function) or "").split())
        _CHECKS[function.__name__] = Check(function.__name__, kinds or KINDS, demand, function)
        return function

    return register


def all_checks() -> Mapping[str, Check]:
    """Returns all checks by name, in the order in which they are done."""
    for module in _MODULES:
        importlib.import_module(f"mdp_core.testing.{module}")
    return _CHECKS


def checks_for(kind: str) -> tuple[Check, ...]:
    """Returns the checks for one kind of plugin.

    Raises:
        PluginError: There is no such kind.
    """
    if kind not in KINDS:
        raise PluginError(f"no kind of plugin is named {kind!r}{did_you_mean(kind, KINDS)}", hint=f"kinds: {', '.join(KINDS)}")
    return tuple(found for found in all_checks().values() if kind in found.kinds)


def plugin_checks(kind: str) -> tuple[str, ...]:
    """Returns the names of the checks for one kind of plugin, in the order in which they are done.

    Raises:
        PluginError: There is no such kind.
    """
    return tuple(found.name for found in checks_for(kind))


def accept_expectations(kind: str, expected: Mapping[str, str]) -> None:
    """Checks what an author expects to fail.

    Raises:
        PluginError: A check of that name does not exist for this kind, or an expected failure has no reason.
    """
    names = plugin_checks(kind)
    for name, reason in expected.items():
        if name not in names:
            where = f"is not a check for a {kind}" if name in all_checks() else "is no check"
            raise PluginError(
                f"expected_failures: {name!r} {where}{did_you_mean(name, names)}", hint=f"checks: {', '.join(names)}"
            )
        if not isinstance(reason, str) or not reason.strip():
            raise PluginError(
                f"expected_failures: {name!r} has no reason",
                hint="say why the plugin cannot hold it, for those who rely on it: an expected failure is a promise not made",
            )


def table() -> str:
    """Returns all checks as a table in Markdown; docs/plugins/testing.md holds it, and a test compares."""
    rows = []
    for found in all_checks().values():
        kinds = "all" if found.kinds == KINDS else ", ".join(found.kinds)
        rows.append(f"| `{found.name}` | {kinds} | {found.demand} |")
    return "\n".join(["| check | kinds | what it demands, and why |", "|---|---|---|", *rows])
