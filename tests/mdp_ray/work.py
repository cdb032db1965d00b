"""What tasks of these tests do: small things in files of a folder, so that one sees where and how often they were done."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from mdp_core.api import StageError


def job(folder: Path, **told: Any) -> str:
    return json.dumps({"folder": str(folder), **told})


def square(text: str, shard: int | None, listener: Any) -> None:
    """Writes the square of the shard's number, after ``seconds``; says which process did it."""
    told = json.loads(text)
    folder = Path(told["folder"])
    with (folder / f"{shard}.tries").open("a") as file:
        file.write(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']} {os.environ.get('MDP_TOLD')} {os.environ['RAY_NODE']}\n" if "RAY_NODE" in os.environ else f"{os.getpid()}\n")
    print(f"shard {shard} printed")
    os.system(f"echo shard {shard} echoed")
    for step in range(4):
        time.sleep(told.get("seconds", 0) / 4)
        listener.progress(step + 1, 4, {})
    if shard == told.get("kill") and len((folder / f"{shard}.tries").read_text().splitlines()) <= told["times"]:
        os.kill(os.getpid(), signal.SIGKILL)
    listener.note("device", "cpu")
    (folder / f"{shard}.txt").write_text(str(shard**2))


def fail(text: str, shard: int | None, listener: Any) -> None:
    folder = Path(json.loads(text)["folder"])
    with (folder / "tries").open("a") as file:
        file.write("x")
    if json.loads(text)["how"] == "stage":
        raise StageError("there are no masks", hint="look at the prior")
    raise ZeroDivisionError("by zero")


def train(text: str, shard: int | None, listener: Any) -> None:
    """Adds up the ranks of all processes; told to, rank 1 is killed once, or fails."""
    import torch
    import torch.distributed as dist

    told = json.loads(text)
    folder, rank, world = Path(told["folder"]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with (folder / f"rank{rank}.tries").open("a") as file:
        file.write(f"{os.getpid()} {os.environ['MASTER_ADDR']} {dist.get_backend()}\n")
    print(f"rank {rank} printed")
    total = torch.zeros(1)
    for step in range(told.get("steps", 3)):
        if rank == 1 and step == 1 and told.get("how") == "stage":
            raise StageError("there are no masks", hint="look at the prior")
        if rank == 1 and step == 1 and told.get("how") == "kill" and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(told.get("seconds", 0))
        total += rank + 1
        dist.all_reduce(total)
        listener.progress(step + 1, 3, {"loss": float(total)})
    if rank == 0:
        (folder / "total.txt").write_text(f"{world} {float(total)}")
