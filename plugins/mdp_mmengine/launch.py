"""Several devices: who this process is under torchrun, and the process group that MMEngine shall find."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

__all__ = ["Place", "join"]


@dataclass(frozen=True)
class Place:
    """This process among those that train together.

    Attributes:
        rank: 0..world-1; rank 0 alone writes files and reports.
        world: Number of processes.
        device: The device of this process.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0


def join(device: str) -> Place:
    """Returns this process's place; under torchrun (``WORLD_SIZE`` > 1) first joins the process group.

    MMEngine's own launcher calls ``torch.cuda.set_device`` and so fails on a CPU; a group that exists already is used.
    gloo on the CPU, NCCL on CUDA, one device a process by ``LOCAL_RANK``.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    place = torch.device(device)
    if world > 1 and place.type == "cuda":
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if place.type == "cuda":
        torch.cuda.set_device(place if place.index is not None else torch.device("cuda", 0))
    if world == 1:
        return Place(0, 1, place)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    return Place(dist.get_rank(), dist.get_world_size(), place)
