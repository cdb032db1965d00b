"""What came of the checks of one plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mdp_core.errors import MdpError

Outcome = Literal["ok", "failed", "expected", "skipped"]


class CheckFailedError(AssertionError):
    """A plugin does not do what a check demands.

    Args:
        message: What is wrong, and with which image.
        remedy: What to do about it.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}\n  {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy


class CheckSkippedError(Exception):
    """A check that says nothing about this plugin, or cannot; the message says why."""


@dataclass(frozen=True)
class CheckResult:
    """What came of one check.

    Attributes:
        name: Name of the check.
        demand: What it demands and why, in one line.
        outcome: ``ok``; ``failed``; ``expected``, a failure that the author gave a reason for; ``skipped``.
        message: What is wrong, the reason of an expected failure, or why it was skipped.
        remedy: What to do about a failure.
        trace: The traceback, where the plugin raised.
        seconds: How long it took.
    """

    name: str
    demand: str
    outcome: Outcome
    message: str = ""
    remedy: str = ""
    trace: str = ""
    seconds: float = 0.0

    def line(self) -> str:
        """Returns the result as one line: ``FAILED   scores_are_shares: …``."""
        word = "FAILED" if self.outcome == "failed" else self.outcome
        return f"{word:<8} {self.name}" + (f": {self.message}" if self.message else "")


@dataclass(frozen=True)
class CheckReport:
    """What came of all checks of one plugin.

    Attributes:
        plugin: ``kind:name``.
        results: One a check, in order.
        settings: Those that the plugin was checked with.
    """

    plugin: str
    results: tuple[CheckResult, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing failed that was not expected to."""
        return not self.failures

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The checks that failed; those that were expected to, and did not, among them."""
        return tuple(r for r in self.results if r.outcome == "failed")

    def raise_for_failures(self) -> None:
        """Raises where something failed.

        Raises:
            CheckFailedError: Names all checks that failed, with their messages.
        """
        if self.failures:
            raise CheckFailedError(str(self))

    def to_json(self) -> dict[str, Any]:
        """Returns the report, JSON-ready."""
        return {
            "plugin": self.plugin,
            "ok": self.ok,
            "settings": dict(self.settings),
            "checks": [vars(r) for r in self.results],
        }

    def __str__(self) -> str:
        lines = [r.line() + (f"\n         {r.remedy}" if r.remedy else "") for r in self.results]
        return "\n".join([f"{self.plugin}: {self.summary()}", *lines])

    def summary(self) -> str:
        """Returns the counts: ``21 ok, 1 failed, 2 skipped``."""
        words = ("ok", "failed", "expected", "skipped")
        counts = {word: sum(r.outcome == word for r in self.results) for word in words}
        return ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "no checks"


def failure_of(error: BaseException) -> tuple[str, str]:
    """Returns message and remedy of whatever a check, or the plugin in it, raised."""
    if isinstance(error, CheckFailedError):
        return error.message, error.remedy
    if isinstance(error, MdpError):
        return error.message, error.hint or ""
    return said(error), ""


def said(error: BaseException) -> str:
    """Returns an error in one line: its type, its text, and the last line of the plugin's own code that it went through."""
    if isinstance(error, MdpError):
        return f"{type(error).__name__}: {error.message}"
    place, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "mdp_core" not in file.replace("\\", "/").split("/") and "site-packages" not in file and not file.startswith("<"):
            place = f" ({file}:{trace.tb_lineno})"
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}{place}"
