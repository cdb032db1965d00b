"""Checkpoints around a ResNet's tensors as the official releases write them: name → (content, standard deviation of red).

Written down from what the projects' training code saves, independently of the table that reads them.
"""

from itertools import pairwise

import torch
from torch import nn


def resnet_checkpoints(state: dict[str, torch.Tensor]) -> dict[str, tuple[dict, float]]:
    """``state``: a torchvision ResNet's state dict, with its ``fc``."""
    body = {name: value for name, value in state.items() if not name.startswith("fc.")}
    width = state["fc.weight"].shape[1]

    def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {prefix + name: value for name, value in tensors.items()}

    def other(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value + 1 for name, value in tensors.items()}  # a second network: never the one wanted

    def mlp(prefix: str, *sizes: int, norm: bool = False) -> dict[str, torch.Tensor]:
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), *([nn.BatchNorm1d(after)] if norm else []), nn.ReLU()]
        return under(prefix, nn.Sequential(*layers).state_dict())

    queue = {"queue": torch.ones(8, 16), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    moco2 = {
        **under("encoder_q.", body),
        **mlp("encoder_q.fc.", width, 16, 8),
        **under("encoder_k.", other(body)),
        **mlp("encoder_k.fc.", width, 16, 8),
        **queue,
    }
    moco1 = {**under("encoder_q.", body), "encoder_q.fc.weight": torch.ones(8, width), "encoder_q.fc.bias": torch.ones(8)}
    moco3 = {
        **under("base_encoder.", body),
        **mlp("base_encoder.fc.", width, 16, 8, norm=True),
        **under("momentum_encoder.", other(body)),
        **mlp("momentum_encoder.fc.", width, 16, 8, norm=True),
        **mlp("predictor.", 8, 16, 8, norm=True),
    }
    momentum = {name.replace("base_", "momentum_"): value for name, value in moco3.items() if name.startswith("base_")}
    swav = {**body, **mlp("projection_head.", width, 16, 8, norm=True), "prototypes.weight": torch.ones(30, 8)}
    several = {**body, "projection_head.weight": torch.ones(8, width), "prototypes.prototypes0.weight": torch.ones(30, 8)}
    low_dim = {"fc.weight": torch.ones(128, width), "fc.bias": torch.ones(128)}
    pycontrast = {
        "model": under("module.", {**under("encoder.", body), **mlp("head.", width, 8), **mlp("head_jig.fc1.", width, 8)}),
        "model_ema": {**under("encoder.", other(body)), **mlp("head.", width, 8)},
        "contrast": {"memory": torch.ones(8, 4)},
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 200,
    }
    densecl = {
        **under("encoder_q.0.", body),
        **mlp("encoder_q.1.mlp.", width, 8),
        **under("encoder_k.0.", other(body)),
        **queue,
        "queue2": torch.ones(8, 16),
        "queue2_ptr": torch.zeros(1, dtype=torch.long),
    }
    dino = under(
        "module.", {**under("backbone.", body), **mlp("head.mlp.", width, 8), "head.last_layer.weight_v": torch.ones(4, 8)}
    )
    counterless = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    return {
        "MoCo v1": ({"epoch": 200, "arch": "resnet50", "state_dict": under("module.", moco1)}, 0.229),
        "MoCo v2": ({"epoch": 800, "arch": "resnet50", "state_dict": under("module.", moco2), "optimizer": {}}, 0.229),
        "MoCo v3": ({"epoch": 1000, "arch": "resnet50", "state_dict": under("module.", moco3)}, 0.229),
        "MoCo v3, momentum encoder": ({"state_dict": under("module.", momentum)}, 0.229),
        "SwAV": (under("module.", swav), 0.228),
        "DeepCluster v2": (under("module.", several), 0.228),
        "InstDisc": ({"epoch": 200, "state_dict": under("module.", {**body, **low_dim})}, 0.229),
        "InfoMin": (pycontrast, 0.229),
        "DenseCL": ({"state_dict": body, "author": "DenseCL"}, 0.229),
        "DenseCL in training": ({"state_dict": {**densecl, **under("backbone.", body)}, "meta": {"epoch": 200}}, 0.229),
        "DenseCL, encoders alone": ({"state_dict": densecl}, 0.229),
        "OpenSelfSup": ({"state_dict": {**under("backbone.", body), **mlp("neck.mlp.", width, 8)}}, 0.229),
        "DINO": (body, 0.229),
        "DINO in training": ({"student": under("module.backbone.", other(body)), "teacher": dino, "epoch": 800}, 0.229),
        "torchvision": (state, 0.229),
        "old torchvision": (counterless, 0.229),
        "torch.compile": ({"model": under("module._orig_mod.", state)}, 0.229),
    }
