"""Errors that are a person's to mend: each says what is wrong, where, and what to do. The CLI prints them without a traceback."""

from __future__ import annotations


class MdpError(Exception):
    """An error with a message for people.

    Args:
        message: What is wrong and where (file:line, plugin, image), in one line where possible.
        hint: What to do about it.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class RecipeError(MdpError):
    """One or more mistakes in a recipe, a setting or an override."""


class PluginError(MdpError):
    """A plugin is missing, broken, ambiguous or of another API version."""


class DataError(MdpError):
    """An image, an annotation or a dataset folder cannot be used."""


class WeightsError(MdpError):
    """Weights are missing, unreadable or do not fit the network."""


class StageError(MdpError):
    """A stage cannot do its work with what it was given (for example: no masks at all)."""


class StoreError(MdpError):
    """The store cannot be written or read (full disk, permissions, damaged file)."""


class RunError(MdpError):
    """A run that is asked for is not there, or cannot be used for what is asked."""


class MdpWarning(UserWarning):
    """Something a person should know; the work goes on."""


class ObserverWarning(MdpWarning):
    """An observer (tracking, display) failed; the run goes on without it."""
