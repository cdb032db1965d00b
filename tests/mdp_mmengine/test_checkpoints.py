from pathlib import Path

import pytest
import torch

from mdp_mmengine.checkpoints import Checkpoint, newest, save


def checkpoint(iteration: int) -> Checkpoint:
    return Checkpoint(
        iteration, {"w": torch.full((3,), float(iteration))}, {"state": {}, "param_groups": []}, [{"last_step": 1}]
    )


def test_round_trip_and_last_two_kept(tmp_path: Path) -> None:
    for iteration in (9, 10, 11):
        save(tmp_path, checkpoint(iteration))
    found = newest(tmp_path)
    assert found is not None
    assert found.iteration == 11
    assert torch.equal(found.model["w"], torch.full((3,), 11.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iter_00000010.pt", "iter_00000011.pt"]


def test_nothing_there(tmp_path: Path) -> None:
    assert newest(tmp_path / "none") is None
    assert newest(tmp_path) is None


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_cut_file_is_never_used(tmp_path: Path, keep: float) -> None:
    save(tmp_path, checkpoint(1))
    save(tmp_path, checkpoint(2))
    path = tmp_path / "iter_00000002.pt"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep >= 1 else len(content) * keep)])
    with pytest.warns(UserWarning, match="damaged checkpoint"):
        found = newest(tmp_path)
    assert found is not None
    assert found.iteration == 1


def test_half_written_name_is_not_looked_at(tmp_path: Path) -> None:
    save(tmp_path, checkpoint(1))
    (tmp_path / "iter_00000002.pt.tmp").write_bytes(b"half")
    found = newest(tmp_path)
    assert found is not None
    assert found.iteration == 1
