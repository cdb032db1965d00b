"""A tiny model to train in tests; run as a program it trains under the arguments given (for kill and torchrun tests)."""

import json
import os
import sys
from pathlib import Path

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from safetensors.torch import save_file

from mdp_core.api import Context, Silence
from mdp_mmengine.training import Samples, Schedule, train


@MODELS.register_module(force=True)
class TinyRegressor(BaseModel):
    def __init__(self, dropout: float = 0.3, explode: bool = False) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 8)
        self.norm = torch.nn.BatchNorm1d(8) if dropout else torch.nn.Identity()
        self.dropout = torch.nn.Dropout(dropout)
        self.head = torch.nn.Linear(8, 1)
        self.explode = explode

    def forward(self, inputs, targets, mode="loss"):
        hidden = self.norm(self.linear(torch.stack(inputs)))
        error = (self.head(self.dropout(torch.relu(hidden)))[:, 0] - torch.stack(targets)) ** 2
        return {"loss_fit": error.mean() * (float("nan") if self.explode else 1.0)}


def load(sample: int) -> dict[str, torch.Tensor]:
    inputs = torch.randn(4) + sample % 3
    return {"inputs": inputs, "targets": inputs.sum()}


class KillAt(Silence):
    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def progress(self, done, total, metrics):
        if done == self.iteration:
            os.kill(os.getpid(), 9)


def run(folder: Path, work: Path, *, listener=None, dropout: float = 0.3, **changes) -> dict[str, torch.Tensor]:
    schedule = {"iterations": 8, "batch": 4, "lr": 0.02, "steps": (5,), "warmup": 2, "checkpoint_every": 3} | changes
    model = train(
        {"type": "TinyRegressor", "dropout": dropout},
        "mmengine",  # type: ignore[arg-type]
        Samples(7, load),
        Schedule(**schedule),
        context=Context(seed=11, listener=listener or Silence()),
        folder=folder,
        work=work,
    )
    return model.state_dict()


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    folder, work = Path(arguments["folder"]), Path(arguments["work"])
    kill = arguments.get("kill")
    state = run(folder, work, listener=KillAt(kill) if kill else None, dropout=arguments.get("dropout", 0.3))
    if os.environ.get("RANK", "0") == "0":
        save_file({name: value.contiguous() for name, value in state.items()}, folder / "state.safetensors")
