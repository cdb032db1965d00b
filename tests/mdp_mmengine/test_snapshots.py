import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from mdp_mmengine.snapshots import evenly, snapshot_folders

PROGRAM = """
import json, os, sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from safetensors.torch import save_file
from mdp_core.api import Context, Silence
from mdp_mmengine.snapshots import Snapshots
from mdp_mmengine.training import Samples, Schedule, train

tiny, root, kill, inside = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
spec = spec_from_file_location("tiny_snapshots", tiny)
module = module_from_spec(spec)
spec.loader.exec_module(module)
folder, work = root / "model", root / "work"
folder.mkdir(parents=True, exist_ok=True)
work.mkdir(exist_ok=True)
written = []

def write(path, model):
    written.append(path.name)
    save_file({n: v.detach().clone() for n, v in model.state_dict().items()}, path / "model.safetensors")
    if len(written) == inside:
        os.kill(os.getpid(), 9)

model = train({"type": "TinyRegressor"}, "mmengine", Samples(7, module.load), Schedule(9, 4, 0.02, checkpoint_every=3),
    context=Context(seed=1, listener=module.KillAt(kill)), folder=folder, work=work, snapshots=Snapshots((2, 4, 5, 9), write))
save_file({n: v.detach().clone() for n, v in model.state_dict().items()}, folder / "model.safetensors")
print(json.dumps(written))
"""


def _run(root: Path, kill: int = 0, inside: int = 0) -> subprocess.CompletedProcess[str]:
    tiny = str(Path(__file__).with_name("tiny.py"))
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, tiny, str(root), str(kill), str(inside)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_survive_kills_and_are_the_same(tmp_path):
    straight = _run(tmp_path / "straight")
    assert straight.returncode == 0, straight.stderr
    assert json.loads(straight.stdout) == ["00000002.tmp", "00000004.tmp", "00000005.tmp"]
    root = tmp_path / "killed"
    for kill, inside in (
        (6, 0),
        (0, 1),
    ):  # after 5 iterations, the checkpoint is of 3; then inside of writing one that is missing
        if inside:
            shutil.rmtree(root / "work/snapshots/00000005")
        assert _run(root, kill, inside).returncode == -9
        assert snapshot_folders(root / "model") == {}
    assert {path.name for path in (root / "work/snapshots").iterdir()} == {"00000002", "00000004", "00000005.tmp"}
    last = _run(root)
    assert last.returncode == 0, last.stderr
    assert json.loads(last.stdout) == ["00000005.tmp"]
    found = {name: snapshot_folders(tmp_path / name / "model") for name in ("straight", "killed")}
    assert list(found["killed"]) == ["iteration 2", "iteration 4", "iteration 5"]
    assert not list((root / "model").rglob("*.tmp"))
    states = {name: [load_file(path / "model.safetensors") for path in one.values()] for name, one in found.items()}
    for one, other in zip(states["straight"], states["killed"], strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert not torch.equal(states["killed"][0]["linear.weight"], states["killed"][2]["linear.weight"])


@pytest.mark.parametrize(
    ("count", "total", "expected"), [(0, 9, ()), (1, 9, (4,)), (2, 9, (3, 6)), (44, 45, tuple(range(1, 45)))]
)
def test_evenly(count, total, expected):
    assert evenly(count, total) == expected


@given(st.integers(0, 60), st.integers(1, 500))
def test_evenly_is_inside_and_even(count, total):
    at = evenly(count, total)
    assert len(at) == min(count, total - 1) if count < total else len(at) <= total - 1
    assert all(0 < iteration < total for iteration in at)
    if at and count < total:
        gaps = [b - a for a, b in zip((0, *at), (*at, total), strict=True)]
        assert max(gaps) - min(gaps) <= 2


def test_a_model_without_snapshots_has_none(tmp_path):
    assert snapshot_folders(tmp_path) == {}
