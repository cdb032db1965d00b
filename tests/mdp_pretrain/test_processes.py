"""Several processes on one machine; each test is a program of its own, so that a hang is the end of one test alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mdp_core.api import BACKBONE, StageError
from mdp_pretrain.processes import together


def train(small, root: Path, **told: Any) -> subprocess.CompletedProcess[str]:
    arguments = json.dumps({"root": str(root), **told})
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = [sys.executable, str(Path(small.__file__)), arguments]
    return subprocess.run(program, capture_output=True, text=True, timeout=180, check=False, env=environment)


@pytest.mark.slow
def test_two_processes_end_with_the_same_network(small, tmp_path: Path) -> None:
    settings = {"devices": 2, "train": {"iters": 3, "checkpoint_every": 2}}
    done = train(small, tmp_path / "two", settings=settings, ranks=True)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for part in ("student", "teacher"):
        for name, value in first[part].items():
            assert torch.isfinite(value.float()).all(), name
            if "running" not in name:  # gloo has no BatchNorm over processes
                assert torch.equal(value, second[part][name]), name
    assert len((tmp_path / "two" / "log.jsonl").read_text().splitlines()) == 3, "rank 0 alone writes"
    assert not list((tmp_path / "two").glob("meeting*"))


@pytest.mark.slow
def test_a_failure_is_named_and_nothing_hangs(small, tmp_path: Path) -> None:
    done = train(small, tmp_path, failures=True)
    assert done.returncode == 0, done.stderr
    unreadable, killed, own = (json.loads(line) for line in done.stdout.splitlines())
    assert unreadable == ["training process 1 of this machine failed: DataError: scan_07.png: cannot be read", "take it out"]
    assert "killed (SIGKILL)" in killed[0] and "memory" in killed[1]
    assert own == ["train.batch 5 cannot be shared among 2 devices", "make it a multiple of 2"], "not hidden behind the child's"
    assert not list(tmp_path.rglob(BACKBONE)) and not list(tmp_path.rglob("meeting*"))


def test_one_device_starts_nothing(tmp_path: Path) -> None:
    with together(1, "cpu", tmp_path, print) as place:
        assert (place.rank, place.world, place.main) == (0, 1, True)
    assert not torch.distributed.is_initialized()


def test_more_gpus_than_there_are(tmp_path: Path) -> None:
    wanted = torch.cuda.device_count() + 2
    with (
        pytest.raises(StageError, match=f"devices: {wanted}, but there are {wanted - 2} GPUs"),
        together(wanted, "cuda", tmp_path, print),
    ):
        pass
