"""Checks that the same thing comes out again: with the same seed, in other batches, in another process."""

from __future__ import annotations

from mdp_core.testing.compare import difference
from mdp_core.testing.fresh import make_elsewhere
from mdp_core.testing.registry import LEARNERS, MAKERS, check
from mdp_core.testing.report import CheckFailedError
from mdp_core.testing.trial import Trial
from mdp_core.testing.watch import Watched, watching


@check(*MAKERS)
def same_seed_same_result(trial: Trial) -> None:
    """Done again from the start with the same seed, training included, everything is equal bit for bit: stored results stand for all runs."""
    base = trial.worked
    with watching(Watched()):
        fitted = trial.learn(base.samples, trial.new_folder("again")) if trial.kind in LEARNERS else None
        items = trial.make(base.samples, fitted)
    words = difference(base.items, items, [s.record.id for s in base.samples], exact=True)
    if words:
        raise CheckFailedError(
            f"a second time with the same seed is not the same: {words}",
            "draw from np.random.default_rng(context.seed) or a torch.Generator seeded with it, sort what comes from sets and folders",
        )


@check(*MAKERS)
def batches_do_not_matter(trial: Trial) -> None:
    """An image alone, and all in reverse order, give the same up to rounding: shards are cut anyhow, and results must not depend on it."""
    base = trial.worked
    samples, names = base.samples, [s.record.id for s in base.samples]
    with watching(Watched()):
        alone = [trial.make(samples.at([index]), base.fitted)[0] for index in range(len(samples))]
        order = range(len(samples))[::-1]
        reverse = trial.make(samples.at(order), base.fitted)[::-1]
    for items, how in ((alone, "alone"), (reverse, "in reverse order")):
        words = difference(base.items, items, names, exact=False)
        if words:
            raise CheckFailedError(
                f"an image together with others and {how} is not the same: {words}",
                "compute nothing over the images of a call (means, norms, thresholds), keep no state between them, and their order",
            )


@check(*MAKERS)
def works_in_a_new_process(trial: Trial) -> None:
    """A process that is started fresh (spawn) makes the same of the same images, with the settings, and the model's folder, alone."""
    base = trial.worked
    items = make_elsewhere(trial, base.fitted)
    words = difference(base.items, items, [s.record.id for s in base.samples], exact=False)
    if words:
        raise CheckFailedError(
            f"a new process makes something else: {words}",
            "keep nothing in modules or class attributes; hash() of texts differs in each",
        )
