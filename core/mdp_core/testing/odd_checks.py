"""Checks with odd images: of one pixel, of one colour, very large, none at all."""

from __future__ import annotations

from collections.abc import Callable

from mdp_core.testing.registry import MAKERS, check
from mdp_core.testing.report import CheckFailedError
from mdp_core.testing.result_checks import check_items
from mdp_core.testing.samples import Samples, large, plain, tiny
from mdp_core.testing.trial import Trial


def _survives(trial: Trial, make: Callable[[], Samples]) -> None:
    samples = make()
    check_items(trial, trial.on(samples), samples)


@check(*MAKERS)
def survives_tiny_images(trial: Trial) -> None:
    """Images of 1×1, 1×37, 37×1, 2×3 and 9×7 pixels get valid results, empty ones if need be: they occur, and one that raises ends a run."""
    _survives(trial, tiny)


@check(*MAKERS)
def survives_plain_images(trial: Trial) -> None:
    """Black, white and grey images, a ramp and noise get valid results: where all pixels are equal, means and deviations divide by zero."""
    _survives(trial, plain)


@check(*MAKERS)
def survives_large_images(trial: Trial) -> None:
    """A photograph's size (900×1,200) and extreme shapes (40×2,500) get valid results: memory by the square of the pixels shows here."""
    _survives(trial, large)


@check(*MAKERS)
def survives_no_images(trial: Trial) -> None:
    """No images at all give no results, and no error: the last shard of a step may be empty."""
    trial.worked  # noqa: B018 - skips where ordinary images fail already
    try:
        items = trial.on(Samples([]))
    except CheckFailedError as error:
        raise CheckFailedError(
            error.message, "np.stack, torch.cat and max() want at least one: yield nothing where there is nothing"
        ) from error
    if items:
        raise CheckFailedError(f"it yielded {len(items)} results for no images", "yield one an image")
