"""What the tasks of these tests do: small things in files of a folder, so that one sees where and how often they were done."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from mdp_core.api import StageError, Task


def task(
    name: str, folder: Path, shard: int | None = None, *, distributed: bool = False, device: str = "auto", **told: Any
) -> Task:
    """A task that calls the function ``name`` of this module."""
    job = json.dumps({"folder": str(folder), **told})
    return Task(f"{name} {shard}", told.get("stage", "a"), job, shard, 4, "prior:x", device, distributed, f"ray_work:{name}")


def square(text: str, shard: int | None, listener: Any) -> None:
    """Writes the square of the shard's number, after ``seconds``, and which process tried; told to, it is killed first."""
    import ray

    told = json.loads(text)
    folder = Path(told["folder"])
    tries = folder / f"{shard}.tries"
    with tries.open("a") as file:
        file.write(f"{os.getpid()} {ray.get_runtime_context().get_node_id()} {os.environ['OMP_NUM_THREADS']}\n")
    print(f"shard {shard} printed")
    os.system(f"echo shard {shard} echoed")
    for step in range(4):
        time.sleep(told.get("seconds", 0) / 4)
        listener.progress(step + 1, 4, {})
    if shard == told.get("kill") and len(tries.read_text().splitlines()) <= told["times"]:
        os.kill(os.getpid(), signal.SIGKILL)
    listener.note("device", os.environ.get("MDP_TOLD", "nothing told"))
    assert shard is not None
    (folder / f"{shard}.txt").write_text(str(shard**2))


def fail(text: str, shard: int | None, listener: Any) -> None:
    """Fails as it is told to."""
    told = json.loads(text)
    with (Path(told["folder"]) / "tries").open("a") as file:
        file.write("x")
    if told["how"] == "stage":
        raise StageError("there are no masks", hint="look at the prior")
    raise ZeroDivisionError("by zero")


def learn(text: str, shard: int | None, listener: Any) -> None:
    """Tells of many quick iterations."""
    listener.warn("this is quick")
    for step in range(300):
        listener.progress(step + 1, 300, {"loss": float(step)})


def train(text: str, shard: int | None, listener: Any) -> None:
    """Adds up the ranks of all processes; told to, rank 1 is killed once, or fails."""
    import torch
    import torch.distributed as dist

    told = json.loads(text)
    folder, rank, world = Path(told["folder"]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with (folder / f"rank{rank}.tries").open("a") as file:
        file.write(f"{os.environ['MASTER_ADDR']} {dist.get_backend()} {os.environ['GLOO_SOCKET_IFNAME']}\n")
    print(f"rank {rank} printed")
    total = torch.zeros(1)
    for step in range(3):
        if rank == 1 and step == 1 and told.get("how") == "stage":
            raise StageError("there are no masks", hint="look at the prior")
        if rank == 1 and step == 1 and told.get("how") == "kill" and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        total += rank + 1
        dist.all_reduce(total)
        listener.progress(step + 1, 3, {"loss": float(total)})
    if rank == 0:
        (folder / "total.txt").write_text(f"{world} {float(total)}")
