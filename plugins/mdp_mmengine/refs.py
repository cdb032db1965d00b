"""Settings types that the MM plugins share; imports nothing heavy."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, TypeAdapter

from mdp_core.api import WeightsRef

__all__ = ["BackboneRef"]


def _check(value: str) -> str:
    if value == "none":
        return value
    if value.startswith("builtin:"):
        raise ValueError("backbone weights are written none, file:PATH or timm:NAME; the built-in ones are no ResNets")
    return TypeAdapter(WeightsRef).validate_python(value)


# The last mark of WeightsRef makes a file count by its contents, not by its path; inside a union it would be lost.
BackboneRef = Annotated[str, AfterValidator(_check), WeightsRef.__metadata__[-1]]
"""Where a ResNet's initial weights come from: ``none`` (random), or what ``WeightsRef`` allows but ``builtin:``, since none is a ResNet."""
