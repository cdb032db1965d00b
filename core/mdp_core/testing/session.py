"""Does the checks of one plugin, one after the other, and weighs them against what its author expects to fail."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mdp_core.testing.registry import Check, accept_expectations, checks_for
from mdp_core.testing.report import CheckReport, CheckResult, CheckSkippedError, failure_of
from mdp_core.testing.trial import Trial


def check_plugin(
    name: str,
    *,
    kind: str | None = None,
    settings: Mapping[str, Any] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    plugin_files: Sequence[Path | str] = (),
    model: Path | Callable[[], Path] | None = None,
) -> CheckReport:
    """Checks that a plugin keeps the promises of its kind's interface.

    Args:
        name: Name of the plugin, or ``kind:name``.
        kind: Its kind, where several kinds have a plugin of this name.
        settings: Settings as a recipe writes them, over those that the plugin has for trials (``StageConfig.trial``).
        expected_failures: Check → the reason why the plugin cannot hold it. One that does not fail is a failure.
        plugin_files: Plugins in single files.
        model: What a segmenter's ``fit`` left, or a function that makes it, for a probe that reads one.

    Returns:
        What came of each check; ``report.raise_for_failures()`` raises where one failed.

    Raises:
        PluginError: There is no such plugin, no such check, or an expected failure has no reason.
    """
    trial = Trial(name, kind, settings, plugin_files, model)
    return CheckReport(trial.slot, tuple(do_checks(trial, expected_failures or {})), trial.settings)


def do_checks(
    trial: Trial, expected: Mapping[str, str], started: Callable[[Check], None] | None = None
) -> Iterator[CheckResult]:
    """Yields what comes of each check of a plugin, as it comes.

    Args:
        trial: The plugin.
        expected: Check → the reason why it fails.
        started: Told of each check before it is done.

    Raises:
        PluginError: As in ``check_plugin``.
    """
    accept_expectations(trial.kind, expected)
    for check in checks_for(trial.kind):
        if started is not None:
            started(check)
        start = time.monotonic()
        result = weigh(do_check(check, trial), expected.get(check.name))
        yield replace(result, seconds=round(time.monotonic() - start, 3))


def do_check(check: Check, trial: Trial) -> CheckResult:
    """Does one check."""
    try:
        check.function(trial)
    except CheckSkippedError as reason:
        return CheckResult(check.name, check.demand, "skipped", str(reason))
    except Exception as error:
        message, remedy = failure_of(error)
        return CheckResult(check.name, check.demand, "failed", message, remedy, "".join(traceback.format_exception(error)))
    return CheckResult(check.name, check.demand, "ok")


def weigh(result: CheckResult, reason: str | None) -> CheckResult:
    """Returns a result in the light of the reason why it is expected to fail, if it is."""
    if reason is None:
        return result
    if result.outcome == "failed":
        return replace(result, outcome="expected", message=f"{reason} ({result.message})", remedy="")
    if result.outcome == "ok":
        message = f"it was expected to fail ({reason}), and it does not"
        return replace(result, outcome="failed", message=message, remedy="remove it from expected_failures")
    return result
