"""A one-file plugin: the toy method's prior, slow enough that a machine can be taken away while it mines.

``MDP_TOLD`` names a file to which each image adds a line with the machine that works on it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np

from mdp_core.api import GroupingPrior, Images, Instances, Registry, StageConfig, hookimpl


class SlowConfig(StageConfig):
    contrast: float = 1.0
    """Pixels this much brighter than the mean are object."""


class Slow(GroupingPrior[SlowConfig]):
    Config = SlowConfig

    def mine(self, images: Images) -> Iterator[Instances]:
        machine = "here"
        if "RAY_RAYLET_PID" in os.environ:
            import ray

            machine = ray.get_runtime_context().get_node_id()
        for record, pixels in zip(images.records, images, strict=True):
            with open(os.environ["MDP_TOLD"], "a") as file:
                file.write(f"{record.id} {machine}\n")
            time.sleep(0.25)
            border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).astype(float)
            distance = np.abs(pixels - np.median(border, axis=0)).sum(axis=2)
            mask = distance > self.config.contrast * distance.mean()
            yield Instances.from_masks(mask[None] if mask.any() else np.zeros((0, *mask.shape), bool))


@hookimpl
def mdp_register(registry: Registry) -> None:
    registry.add("prior", "slow", factory=":Slow")
