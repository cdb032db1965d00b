"""What mdp expects of every prior."""

from collections.abc import Callable

from mdp_core.testing import parametrize_with_checks


@parametrize_with_checks("prior:example-prior", settings={}, expected_failures={})
def test_conformance(check: Callable[[], None]) -> None:
    check()
