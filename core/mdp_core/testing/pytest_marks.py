"""Checks as tests of pytest, one a check. pytest is imported only when this is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mdp_core.testing.registry import Check, accept_expectations, checks_for
from mdp_core.testing.report import CheckSkippedError
from mdp_core.testing.trial import Trial


class BoundCheck:
    """One check of one plugin: a test calls it.

    Args:
        check: The check.
        trial: The plugin; checks of one plugin share it, so that it learns once for all of them.
    """

    def __init__(self, check: Check, trial: Trial) -> None:
        self._check, self._trial = check, trial
        self.__doc__ = check.demand

    def __call__(self) -> None:
        """Does the check.

        Raises:
            CheckFailedError: The plugin does not do what it demands.
        """
        __tracebackhide__ = True
        import pytest

        try:
            self._check.function(self._trial)
        except CheckSkippedError as reason:
            pytest.skip(str(reason))

    def __repr__(self) -> str:
        return self._check.name


def parametrize_with_checks(
    name: str,
    *,
    kind: str | None = None,
    settings: Mapping[str, Any] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    plugin_files: Sequence[Path | str] = (),
    model: Path | Callable[[], Path] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes one test a check of a test function with the argument ``check``.

    ::

        @parametrize_with_checks("prior:my-prior", settings={"threshold": 0.5})
        def test_conformance(check):
            check()

    Args:
        name: ``kind:name``, or the name alone.
        kind: See ``check_plugin``, as for all others.
        settings: Small settings make the tests fast.
        expected_failures: Become ``xfail(strict=True)`` with their reasons.
        plugin_files: Plugins in single files.
        model: For a probe that reads a segmenter.

    Raises:
        PluginError: There is no such plugin, no such check, or an expected failure has no reason.
    """
    import pytest

    trial = Trial(name, kind, settings, plugin_files, model)
    expected = expected_failures or {}
    accept_expectations(trial.kind, expected)
    parameters = [
        pytest.param(
            BoundCheck(check, trial),
            id=check.name,
            marks=[pytest.mark.xfail(strict=True, reason=expected[check.name])] if check.name in expected else [],
        )
        for check in checks_for(trial.kind)
    ]
    return pytest.mark.parametrize("check", parameters)
