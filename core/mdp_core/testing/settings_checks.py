"""Checks of all plugins: their settings, their registration, and what importing them costs."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from mdp_core.api import Context, MdpError, PluginError, WeightsError
from mdp_core.plugins.settings_docs import describe
from mdp_core.recipe.problems import did_you_mean
from mdp_core.recipe.schema import SECTION_KEYS, STAGE_KEYS
from mdp_core.recipe.show import resolved_text
from mdp_core.settings import Settings, StageConfig, step_settings
from mdp_core.testing.fresh import heavy_imports
from mdp_core.testing.registry import check
from mdp_core.testing.report import CheckFailedError, said
from mdp_core.testing.trial import Trial

STEPS: Mapping[str, tuple[str, ...]] = {
    "pretrainer": ("fit",),
    "prior": ("mine",),
    "clusterer": ("embed", "fit", "assign"),
    "detector": ("fit", "predict"),
    "refiner": ("refine",),
    "segmenter": ("fit", "select", "predict"),
    "probe": ("fit", "predict"),
}
"""The steps of each kind, as the engine does them."""
_INHERITED = ("cache_version", "seeded_steps", "distributed_steps")


@check()
def builds_from_settings(trial: Trial) -> None:
    """An instance can be made from default settings, and from those given to the check: a recipe that names the plugin alone works."""
    trial.host.config(trial.kind, trial.plugin.name)
    trial.host.factory(trial.kind, trial.plugin.name)
    needs_more = {name for name, field in trial.model_class.model_fields.items() if field.is_required()}
    if needs_more - trial.settings.keys():
        raise CheckFailedError(
            f"{' and '.join(sorted(needs_more))} {'has' if len(needs_more) == 1 else 'have'} no default",
            "give it one; where there cannot be one, give the check a value: settings={…}, or --set NAME=VALUE",
        )
    if not needs_more:
        _build(trial, trial.validated({}))
    _build(trial, trial.validated(trial.settings))


def _build(trial: Trial, config: StageConfig) -> None:
    try:
        if trial.kind in ("executor", "observer"):
            trial.factory(config)
        else:
            trial.factory(config, Context())
    except WeightsError:
        pass  # the weights of the defaults need not be on this machine
    except PluginError:
        raise
    except Exception as error:
        raise CheckFailedError(
            f"its constructor fails: {said(error)}",
            "it is called as Class(config, context); leave what takes its time to the first use",
        ) from error


@check()
def settings_survive_yaml(trial: Trial) -> None:
    """Settings written as YAML and read again are equal: the record of a run, and `mdp run --from-run`, keep them so."""
    config = trial.config
    dumped = config.model_dump(mode="json")
    for how, text in (("yaml.safe_dump", yaml.safe_dump(dumped)), ("mdp recipe show", resolved_text(dumped))):
        try:
            again = trial.model_class.model_validate(yaml.safe_load(text) or {})
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise CheckFailedError(f"its settings, written by {how}, are not valid again: {wrong}", _PLAIN) from error
        names = [n for n in trial.model_class.model_fields if getattr(again, n) != getattr(config, n)]
        if names:
            raise CheckFailedError(
                f"{', '.join(names)} became something else when written by {how}: "
                + ", ".join(f"{getattr(config, n)!r} → {getattr(again, n)!r}" for n in names),
                _PLAIN,
            )


_PLAIN = "take types that JSON has, or give the type a serializer that its validator reads"


@check()
def settings_are_documented(trial: Trial) -> None:
    """Each setting has a text under it that says what it does: `mdp plugins show` and the reference print it."""
    silent = [setting.name for setting in describe(trial.model_class) if not setting.meaning]
    if silent:
        raise CheckFailedError(
            f"no text says what {', '.join(silent)} {'does' if len(silent) == 1 else 'do'}",
            'write a docstring under the field: """Share of the patches that may become proposals."""',
        )


@check()
def settings_fit_a_recipe(trial: Trial) -> None:
    """Unknown settings are errors, and none has a name that recipes use: a typo would be passed over, or a setting could not be written."""
    for model, path in _models(trial.model_class):
        if model.model_config.get("extra") != "forbid":
            raise CheckFailedError(
                f"{path or 'its settings'} ({model.__name__}) takes unknown settings without a word",
                "leave model_config as StageConfig and Settings have it: extra='forbid'",
            )
        if not model.model_config.get("frozen"):
            raise CheckFailedError(
                f"{path or 'its settings'} ({model.__name__}) can be changed", "leave frozen=True: keys hold settings"
            )
    keys = STAGE_KEYS if trial.kind in STEPS else SECTION_KEYS
    taken = sorted(set(trial.model_class.model_fields) & set(keys))
    if taken:
        raise CheckFailedError(
            f"a recipe has another meaning for {', '.join(taken)}", f"rename it; taken are {', '.join(keys)}"
        )


def _models(model: type[Settings], path: str = "") -> list[tuple[type[Settings], str]]:
    found = [(model, path)]
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            found += _models(field.annotation, f"{path}.{name}".lstrip("."))
    return found


@check()
def declares_what_keys_need(trial: Trial) -> None:
    """cache_version is a number from 1, seeded_steps, distributed_steps and OnlyFor name real steps: otherwise stored results go stale."""
    model, steps = trial.model_class, STEPS.get(trial.kind, ())
    version: Any = model.cache_version
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise CheckFailedError(f"cache_version is {version!r}", "it is a whole number from 1; raise it when results change")
    for name in _INHERITED[1:]:
        declared: Any = getattr(model, name)
        if isinstance(declared, str) or not isinstance(declared, tuple | list | set | frozenset):
            raise CheckFailedError(f"{name} is {declared!r}", f'it is a tuple of steps: {name} = ("fit",)')
        if declared == getattr(StageConfig, name):
            continue  # not declared: the default is that of all kinds
        for step in sorted(set(declared) - set(steps)):
            raise CheckFailedError(
                f"{name} names {step!r}, which is no step of a {trial.kind}{did_you_mean(step, steps)}",
                f"steps: {', '.join(steps) or 'none'}; a plugin without a random number says seeded_steps = ()",
            )
    config = trial.config
    for step in steps:
        try:
            step_settings(config, step, steps, lambda stage: stage)
        except MdpError as error:
            raise CheckFailedError(error.message, error.hint or "") from error


@check()
def imports_nothing_heavy(trial: Trial) -> None:
    """Registration and settings import no torch, mlflow, mmengine, matplotlib or ray: `mdp plan` and `--help` would take seconds."""
    found = heavy_imports(trial)
    if found:
        module, place = found
        raise CheckFailedError(
            f"the import of its registration and settings imports {module}, at {place}",
            'keep settings in a module of their own (config="package.settings:Config"), and heavy imports out of it; '
            "a plugin in one file imports heavy libraries inside its functions",
        )


@check()
def pickles(trial: Trial) -> None:
    """Class and settings can be pickled: executors hand them to processes that are started fresh (spawn) and to other machines."""
    config = trial.config
    for what, value in (("its settings", config), ("its class", trial.factory)):
        try:
            again = pickle.loads(pickle.dumps(value))
        except Exception as error:
            raise CheckFailedError(
                f"{what} cannot be pickled: {said(error)}",
                "settings hold plain values; the class stands at the top of its module; locks, sessions and networks are made when first used",
            ) from error
        if what == "its class" and again is not value:
            raise CheckFailedError(
                "its class is another one after pickling", "it stands at the top of its module, under its own name"
            )
