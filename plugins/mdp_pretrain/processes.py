"""Several processes that train together on this machine: the first is this one, the others are its children."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import multiprocessing

from mdp_core.api import MdpError, StageError
from mdp_mmengine.launch import Place, join

__all__ = ["together"]

PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others before it gives up."""
GRACE = 5.0
"""Seconds that a child which has failed may take to end and to leave its message."""


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
    threads = torch.get_num_threads()
    children = multiprocessing.start_processes(
        _child, (devices, device, str(meeting), child, os.getpid()), nprocs=devices - 1, join=False, daemon=True
    )
    try:
        yield _meet(0, devices, device, str(meeting))
        while not _ended(children, None):
            pass
    except MdpError:
        raise
    except Exception:  # most often the others' breaking off; then one of them knows more
        _ended(children, GRACE)
        raise
    finally:
        for process in children.processes:
            process.kill()
            process.join()
        if dist.is_initialized():
            dist.destroy_process_group()
        torch.set_num_threads(threads)
        meeting.unlink(missing_ok=True)


def _ended(children: multiprocessing.ProcessContext, timeout: float | None) -> bool:
    """Waits until a child ends; returns whether all have.

    Raises:
        StageError: One failed.
    """
    try:
        return children.join(timeout)
    except multiprocessing.ProcessExitedException as error:
        raise StageError(
            f"training process {error.error_index + 1} of this machine was killed ({error.signal_name or error.exit_code})",
            hint="is the memory enough for all of them? Run the same command again: it continues from the last checkpoint",
        ) from error
    except multiprocessing.ProcessRaisedException as error:
        lines = str(error).rstrip().splitlines()
        last = max(index for index, line in enumerate(lines) if line and not line.startswith(" "))  # a hint comes after it
        message = lines[last].removeprefix("mdp_core.errors.")
        hint = " ".join(line.strip() for line in lines[last + 1 :]) or None
        raise StageError(f"training process {error.error_index + 1} of this machine failed: {message}", hint=hint) from error


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


def _child(index: int, world: int, device: str, meeting: str, child: Callable[[Place], None], parent: int) -> None:
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    child(_meet(index + 1, world, device, meeting))
    dist.destroy_process_group()


def _die_with(parent: int) -> None:
    """Ends this process soon after its parent, which may have been killed without a word."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
