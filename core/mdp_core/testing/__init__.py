"""For plugin authors: checks that a plugin keeps the promises of its kind's interface.

In pytest::

    from mdp_core.testing import parametrize_with_checks

    @parametrize_with_checks("prior:my-prior", settings={"threshold": 0.5})
    def test_conformance(check):
        check()

Without it: ``check_plugin("prior:my-prior").raise_for_failures()``, or ``mdp plugins check my-prior``.
"""

from mdp_core.testing.pytest_marks import parametrize_with_checks
from mdp_core.testing.registry import plugin_checks
from mdp_core.testing.report import CheckFailedError, CheckReport, CheckResult
from mdp_core.testing.samples import sample_images
from mdp_core.testing.session import check_plugin

__all__ = [
    "CheckFailedError",
    "CheckReport",
    "CheckResult",
    "check_plugin",
    "parametrize_with_checks",
    "plugin_checks",
    "sample_images",
]
