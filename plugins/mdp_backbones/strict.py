"""Loads a state dict of which every tensor must fit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from mdp_core.api import WeightsError

__all__ = ["load_strictly"]

OPTIONAL = "num_batches_tracked"
"""Batch normalisation's counter: old checkpoints and some SyncBN lack it, and no forward pass in eval mode reads it."""


def load_strictly(
    module: nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    where: str,
    hint: str = "are these weights of this architecture?",
) -> None:
    """Loads a state dict; of its tensors only the ``num_batches_tracked`` may be missing.

    Args:
        module: Takes the tensors, in its own types.
        state: Name → tensor.
        where: Names the weights in the message.
        hint: What the message advises.

    Raises:
        WeightsError: Names the first missing, unexpected and misshapen tensors, and how many there are.
    """
    wanted = module.state_dict()
    problems = {
        "missing": sorted(name for name in wanted.keys() - state.keys() if not name.endswith(OPTIONAL)),
        "unexpected": sorted(state.keys() - wanted.keys()),
        "misshapen": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
            for name in sorted(wanted.keys() & state.keys())
            if wanted[name].shape != state[name].shape
        ],
    }
    told = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', …' * (len(names) > 3)})" for kind, names in problems.items() if names
    ]
    if told:
        raise WeightsError(f"{where} does not fit the network: {'; '.join(told)}", hint=hint)
    module.load_state_dict({name: state.get(name, wanted[name]) for name in wanted})
