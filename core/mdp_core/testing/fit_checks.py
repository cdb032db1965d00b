"""Checks of trainings: what they leave can be moved, and an interrupted one ends as an undisturbed one."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping

from mdp_core.stages.base import Silence
from mdp_core.stages.pretrainer import BACKBONE
from mdp_core.testing.compare import difference
from mdp_core.testing.registry import LEARNERS, TRAINERS, check
from mdp_core.testing.report import CheckFailedError, CheckSkippedError
from mdp_core.testing.trial import Trial
from mdp_core.testing.watch import Watched, watching
from mdp_core.testing.work import Fitted


@check(*LEARNERS)
def models_can_be_moved(trial: Trial) -> None:
    """A model predicts the same from another place: the engine renames its folder at the end, and people copy stores."""
    base = trial.worked
    if base.fitted is None:
        return
    place = trial.new_folder("moved") / "there"
    shutil.move(base.fitted.folder, place)
    try:
        with watching(Watched()):
            try:
                items = trial.make(base.samples, Fitted(place, base.fitted.clusters))
            except Exception as error:
                raise CheckFailedError(
                    f"it cannot predict from a moved folder: {error}", "write no absolute paths into the model"
                ) from error
    finally:
        shutil.move(place, base.fitted.folder)
    words = difference(base.items, items, [s.record.id for s in base.samples], exact=True)
    if words:
        raise CheckFailedError(
            f"from a moved folder it predicts something else: {words}", "everything that predictions need lies in folder"
        )


class _Interruption(BaseException):
    """Ends a training as Ctrl-C does."""


class _Interrupter(Silence):
    """Ends a training at the first sign of progress beyond its half."""

    def __init__(self) -> None:
        self.heard = False

    def progress(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Interrupts, once."""
        if 2 * done >= total and done < total and not self.heard:
            self.heard = True
            raise _Interruption


@check(*TRAINERS)
def interrupted_trainings_resume(trial: Trial) -> None:
    """A training that is killed half-way and started again ends as an undisturbed one: long trainings are interrupted, results keep their key."""
    base = trial.worked
    place, ear = trial.new_folder("resumed"), _Interrupter()
    with watching(Watched()):
        with contextlib.suppress(_Interruption):
            trial.learn(base.samples, place, ear)
        if not ear.heard:
            raise CheckSkippedError(
                "it tells the listener of no progress before its end, so it cannot be interrupted at a known point"
            )
        fitted = trial.learn(base.samples, place)
        items = trial.make(base.samples, fitted) if trial.kind != "pretrainer" else []
    if trial.kind == "pretrainer" and base.fitted is not None:
        if (fitted.folder / BACKBONE).read_bytes() != (base.fitted.folder / BACKBONE).read_bytes():
            raise CheckFailedError(
                "the weights of an interrupted training are others than those of an undisturbed one", _RESUME
            )
        return
    words = difference(base.items, items, [s.record.id for s in base.samples], exact=True)
    if words:
        raise CheckFailedError(f"an interrupted training predicts something else than an undisturbed one: {words}", _RESUME)


_RESUME = "what is drawn in an iteration must follow from (seed, iteration) alone; work holds model, optimizer and schedule"


@check("pretrainer")
def leaves_equal_weights(trial: Trial) -> None:
    """It leaves backbone.safetensors, equal byte for byte with the same seed: later stages load it, and their keys hold its hash."""
    base = trial.worked
    if base.fitted is None or not (base.fitted.folder / BACKBONE).is_file():
        raise CheckFailedError(f"it left no {BACKBONE}", f"write it into folder; its name is BACKBONE ({BACKBONE})")
    with watching(Watched()):
        again = trial.learn(base.samples, trial.new_folder("again"))
    if (again.folder / BACKBONE).read_bytes() != (base.fitted.folder / BACKBONE).read_bytes():
        raise CheckFailedError(
            "a second training with the same seed left other weights", "draw from generators seeded with context.seed"
        )
