"""Two processes of Ray Train, joined by gloo."""

import os
import time
from pathlib import Path

import pytest
import ray_work as work

from mdp_core.api import StageError
from mdp_ray.train import lost_another


def processes_of_ray_train() -> set[str]:
    """Returns what Ray Train has running on this machine."""
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            title = (folder / "cmdline").read_bytes().decode().strip("\0 ")
        except (OSError, UnicodeDecodeError):
            continue
        if title.startswith(("ray::RayTrainWorker", "ray::TrainController", "ray::PlacementGroupCleaner", "ray::_conduct")):
            found.add(f"{folder.name} {title}")
    return found


@pytest.mark.slow
def test_two_processes_train_together_and_survive_the_loss_of_one(executor, second, recorder, tmp_path: Path) -> None:
    before = processes_of_ray_train()
    ray, heard, log = executor(train_workers=2, cpus_per_fit=1), recorder(), tmp_path / "logs" / "fit.log"
    task = work.task("train", tmp_path, distributed=True, how="kill")
    ray.run([task], log, heard)
    assert (tmp_path / "total.txt").read_text() == "2 21.0"  # 3, then 2·3 + 3, then 2·9 + 3
    for rank in (0, 1):
        assert (tmp_path / f"rank{rank}.tries").read_text() == "127.0.0.1 gloo lo\n" * 2
    assert heard.events[-3:] == [(task.id, n + 1, 3, {"loss": loss}) for n, loss in enumerate([3.0, 9.0, 21.0])]
    assert "rank 0 printed" in log.read_text()
    assert "rank 1 printed" in log.with_name("fit-rank1.log").read_text()
    assert {path.name for path in log.parent.iterdir()} == {"fit.log", "fit-rank1.log"}
    with pytest.raises(StageError, match=r"^train None: there are no masks") as caught:
        ray.run([work.task("train", tmp_path, distributed=True, how="stage")], log, heard)
    assert caught.value.hint == "look at the prior"
    assert len((tmp_path / "rank1.tries").read_text().splitlines()) == 3, "not retried"
    until = time.monotonic() + 20
    while (left := processes_of_ray_train() - before) and time.monotonic() < until:
        time.sleep(0.2)
    assert not left


def test_echoes_of_a_lost_process() -> None:
    import torch.distributed as dist

    gone = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:30407: Connection reset by peer"
    assert lost_another(RuntimeError(gone))
    assert lost_another(dist.DistBackendError("NCCL communicator was aborted on rank 0"))
    assert lost_another(ConnectionResetError(104, os.strerror(104)))
    assert not lost_another(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not lost_another(ValueError("gloo"))
    assert not lost_another(StageError("the loss is not finite"))
