"""Building MM models from plain JSON configurations, whatever MM library was used before in the same process."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any, Literal

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mdp_core.api import StageError

__all__ = ["Scope", "build_model", "merge", "plain", "quiet", "without_sync"]

Scope = Literal["mmdet", "mmseg", "mmengine"]
"""The MM library whose registry names the parts of a model; mmengine where it needs none."""


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration as JSON would hold it (tuples become lists): what is trained is what is published."""
    return json.loads(json.dumps(config))


def merge(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``config`` with ``overrides`` merged in, by MMEngine's rules (``_delete_: true`` replaces a whole dict).

    Raises:
        StageError: The overrides do not fit the configuration.
    """
    if not overrides:
        return plain(config)
    base = Config(copy.deepcopy(dict(config)))
    try:
        base.merge_from_dict(copy.deepcopy(dict(overrides)), allow_list_keys=True)
    except (KeyError, TypeError, AssertionError) as error:
        raise StageError(
            f"mm_overrides cannot be merged into the model's configuration: {error}",
            hint="write the nested keys of the MM model config, for example {roi_head: {bbox_head: {fc_out_channels: 512}}}",
        ) from error
    return plain(base.to_dict())


def build_model(config: Mapping[str, Any], scope: Scope, *, initialise: bool = False) -> nn.Module:
    """Builds a model; the caller imports the MM library (``mmdet.models`` …) beforehand so that its parts are registered.

    Args:
        config: The model's configuration, with ``type``.
        scope: Library in whose registry the types are looked up.
        initialise: Also run the model's own random initialisation (wanted before training, wasted before loading).

    Raises:
        StageError: The configuration names an unknown type or argument.
    """
    quiet()
    with DefaultScope.overwrite_default_scope(scope):
        try:
            model: nn.Module = MODELS.build(Config(plain(config))._cfg_dict)
        except (KeyError, TypeError, AssertionError) as error:
            raise StageError(f"{scope} cannot build the model: {error}", hint="check mm_overrides") from error
        if initialise:
            model.init_weights()
    return model


def without_sync(model: nn.Module) -> nn.Module:
    """Returns the model with SyncBN turned into BN, which is the same on one device."""
    return revert_sync_batchnorm(model)


def quiet() -> None:
    """Makes MMEngine's own logger speak of warnings and errors only."""
    if not MMLogger._instance_dict:
        MMLogger.get_instance("mdp", log_level="WARNING")
