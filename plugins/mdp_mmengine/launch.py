"""Several devices: who this process is under torchrun, and the process group that MMEngine shall find."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from mdp_core.api import StageError

__all__ = ["Place", "agree", "average", "join"]

GRACE = 0.3
"""Seconds before the interpreter ends, in which gloo's threads let go of the last tensors. They need the interpreter for that; one
that comes too late aborts the process, and torchrun then kills the others (seen on a busy machine)."""


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
        if place.type == "cpu" and os.environ.get("LOCAL_WORLD_SIZE") == str(world) and sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all on this machine: no port is opened to others
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
        if place.type == "cpu":
            atexit.register(time.sleep, GRACE)
    return Place(dist.get_rank(), dist.get_world_size(), place)


def agree(place: Place, iteration: int) -> None:
    """Checks that all processes go on from the same iteration; with one process there is nothing to check.

    Raises:
        StageError: They do not: they see different files.
    """
    if place.world == 1:
        return
    own = torch.tensor([iteration], device=place.device)
    found = [torch.zeros_like(own) for _ in range(place.world)]
    dist.all_gather(found, own)
    iterations = [int(one) for one in found]
    if len(set(iterations)) > 1:
        raise StageError(
            f"the {place.world} processes of this training would go on from iterations {', '.join(map(str, iterations))}",
            hint="they see different checkpoints: put MDP_HOME on a filesystem that all machines share",
        )


def average(values: Mapping[str, float]) -> dict[str, float]:
    """Returns the mean of each value over all processes, which call this alike; the values themselves where there is one process."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return dict(values)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return dict(zip(values, (total / dist.get_world_size()).tolist(), strict=True))
