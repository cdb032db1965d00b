"""The real plugins in two gloo processes under torchrun."""

import json
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mdp_mmengine.launch import Place, agree, average

PROGRAM = Path(__file__).with_name("distributed.py")
spec = spec_from_file_location("distributed_training", PROGRAM)
assert spec is not None and spec.loader is not None
alone = module_from_spec(spec)
spec.loader.exec_module(alone)


def torchrun(program: Path | str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=environment)


def two(root: Path, plugin: str, **told: Any) -> subprocess.CompletedProcess[str]:
    root.mkdir(exist_ok=True)
    return torchrun(PROGRAM, str(root), json.dumps({"plugin": plugin, **told}))


def losses(root: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (root / "model" / "training.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(("plugin", "weights"), [("deeplab", "model.safetensors"), ("probe", "probe.safetensors")])
def test_two_processes_learn_what_one_learns_and_resume_exactly(tmp_path: Path, plugin: str, weights: str) -> None:
    heard = alone.run(tmp_path / "one", plugin)
    done = two(tmp_path / "two", plugin)
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "two") == pytest.approx(heard.losses, rel=1e-4), "the log tells of the whole batch"
    one, both = (load_file(tmp_path / name / "model" / weights) for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(both[name], value, rtol=1e-3, atol=1e-5)
    killed = two(tmp_path / "killed", plugin, kill=3)
    assert killed.returncode != 0
    assert not (tmp_path / "killed" / "model" / weights).exists()
    resumed = two(tmp_path / "killed", plugin)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert len(json.loads((tmp_path / "killed" / "heard0.json").read_text())) == 2, "from the checkpoint, not from the start"
    again = load_file(tmp_path / "killed" / "model" / weights)
    assert all(torch.equal(again[name], value) for name, value in both.items())
    assert losses(tmp_path / "killed") == losses(tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plugin", "log", "result"),
    [
        ("deeplab", "training.jsonl", 4),
        ("mask-rcnn", "training.jsonl", 3),
        ("probe", "training.jsonl", 4),
        ("dino", "log.jsonl", 3),
    ],
)
def test_rank_0_alone_writes_and_reports(tmp_path: Path, plugin: str, log: str, result: int) -> None:
    done = two(tmp_path / "two", plugin)
    assert done.returncode == 0, done.stderr[-3000:]
    root = tmp_path / "two"
    assert len(json.loads((root / "heard0.json").read_text())) == result
    assert json.loads((root / "heard1.json").read_text()) == []
    assert not list((root / "scratch1").iterdir())
    assert len((root / "model" / log).read_text().splitlines()) == result
    assert list((root / "model").glob("*.safetensors"))
    assert not [path for path in (root / "work").rglob("*") if "rank1" in path.name or path.suffix == ".tmp"]


def test_a_batch_that_cannot_be_shared(tmp_path: Path) -> None:
    done = two(tmp_path / "odd", "deeplab", batch=5)
    assert done.returncode != 0
    assert "batch 5 cannot be shared by 2 devices" in done.stderr


ELSEWHERE = """
import os, sys
from mdp_mmengine.launch import agree, average, join
place = join("cpu")
assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
assert average({"a": 1.0 + place.rank, "b": 3.0}) == {"a": 1.5, "b": 3.0}
agree(place, 7)
agree(place, 4 * place.rank)
"""


def test_processes_that_see_other_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(ELSEWHERE)
    done = torchrun(tmp_path / "program.py")
    assert done.returncode != 0
    assert "StageError: the 2 processes of this training would go on from iterations 0, 4" in done.stderr
    assert "AssertionError" not in done.stderr


def test_one_process_agrees_with_itself() -> None:
    agree(Place(0, 1, torch.device("cpu")), 5)
    assert average({"loss": 2.0}) == {"loss": 2.0}
