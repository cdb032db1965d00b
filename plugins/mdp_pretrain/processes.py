"""Several processes that train together on this machine: the first is this one, the others are its children."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from mdp_core.api import StageError
from mdp_mmengine.launch import Place, join

__all__ = ["together"]

PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others before it gives up."""


@contextmanager
def together(devices: int, device: str, work: Path, child: Callable[[Place], None]) -> Iterator[Place]:
    """Starts ``devices - 1`` children that call ``child(place)`` and gives this process's own place, rank 0.

    Under torchrun, or with one device, nothing is started. The processes meet through a file in ``work``: no port is opened
    for that, and on a CPU they speak over the loopback interface.

    Args:
        devices: How many processes, one a GPU.
        device: ``cpu`` or ``cuda``.
        work: A folder of this machine.
        child: Picklable; must do as this process does.

    Raises:
        StageError: There are fewer GPUs, or a child failed.
    """
    if devices == 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        yield join(device)
        return
    if device.startswith("cuda") and torch.cuda.device_count() < devices:
        raise StageError(f"devices: {devices}, but there are {torch.cuda.device_count()} GPUs")
    meeting = work / f"meeting-{os.getpid()}"
    meeting.unlink(missing_ok=True)
    start = multiprocessing.get_context("spawn").Process
    children = [
        start(target=_child, args=(rank, devices, device, str(meeting), child, os.getpid()), daemon=True)
        for rank in range(1, devices)
    ]
    for process in children:
        process.start()
    try:
        yield _meet(0, devices, device, str(meeting))
        for process in children:
            process.join()
    except Exception as error:
        codes = [process.exitcode for process in children]
        if any(code not in (None, 0) for code in codes):
            raise StageError(f"a training process failed (exit codes {codes}); its messages stand in the log") from error
        raise
    finally:
        for process in children:
            process.kill()
        if dist.is_initialized():
            dist.destroy_process_group()
        meeting.unlink(missing_ok=True)


def _meet(rank: int, world: int, device: str, meeting: str) -> Place:
    cuda = device.startswith("cuda")
    if not cuda:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        torch.set_num_threads(max(1, torch.get_num_threads() // world))
    place = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(place)
    dist.init_process_group(
        "nccl" if cuda else "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world, timeout=PATIENCE
    )
    return Place(rank, world, place)


def _child(rank: int, world: int, device: str, meeting: str, child: Callable[[Place], None], parent: int) -> None:
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    child(_meet(rank, world, device, meeting))
    dist.destroy_process_group()


def _die_with(parent: int) -> None:
    """Ends this process soon after its parent, which may have been killed without a word."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
