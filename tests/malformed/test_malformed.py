"""Every mistake of docs/errors.md: its exit code, its message as the page says it, and never a traceback."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from malformed_cases.case import ROOT, Case, Outcome
from malformed_cases.page import CASES, WORKERS, Runners, row

PAGE = ROOT / "docs" / "errors.md"


class Outcomes:
    """Outcomes of the chosen cases, worked out a few at a time; where pytest-xdist spreads the tests, when they are asked for."""

    def __init__(self, cases: list[Case]) -> None:
        spread = "PYTEST_XDIST_WORKER" in os.environ
        self._runners = Runners(1 if spread else WORKERS)
        self._running = {c.mistake: self._runners.start(c) for c in ([] if spread else cases)}

    def of(self, case: Case) -> Outcome:
        return (self._running.get(case.mistake) or self._runners.start(case)).result()

    def close(self) -> None:
        self._runners.close()


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[Outcomes]:
    chosen = [item.callspec.params["case"] for item in request.session.items if getattr(item, "originalname", "") == NAME]
    found = Outcomes(chosen)
    yield found
    found.close()


def test_there_are_enough_and_each_is_told_apart() -> None:
    assert len(CASES) >= 90
    assert len({c.mistake for c in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.mistake)
def test_a_mistake_gives_the_message_of_the_page(case: Case, outcomes: Outcomes) -> None:
    outcome = outcomes.of(case)
    both = outcome.stdout + outcome.stderr
    assert "Traceback" not in both, both
    assert outcome.code == case.code, both
    assert outcome.message, "a mistake is not passed over"
    assert case.code or "warning: " in outcome.message
    assert row(case, outcome) in PAGE.read_text(encoding="utf-8"), f"{outcome.message}\n→ make docs, and read what changed"


NAME = test_a_mistake_gives_the_message_of_the_page.__name__


def test_the_page_has_nothing_else() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("| ") and not line.startswith("| mistake") for line in lines) == len(CASES)
