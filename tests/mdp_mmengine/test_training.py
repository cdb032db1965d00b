import json
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mdp_core.api import Context, Silence, StageError
from mdp_mmengine.training import LOG_NAME, Samples, Schedule, train

TINY = Path(__file__).with_name("tiny.py")
spec = spec_from_file_location("tiny_training", TINY)
assert spec is not None
assert spec.loader is not None
tiny = module_from_spec(spec)
spec.loader.exec_module(tiny)


class Recorder(Silence):
    def __init__(self, stop: int | None = None) -> None:
        self.calls: list[tuple[int, int, dict[str, float]]] = []
        self.stop = stop

    def progress(self, done, total, metrics) -> None:
        self.calls.append((done, total, dict(metrics)))
        if done == self.stop:
            raise KeyboardInterrupt


@pytest.fixture
def folders(tmp_path: Path):
    def make(name: str) -> tuple[Path, Path]:
        made = tmp_path / name / "model", tmp_path / name / "work"
        for folder in made:
            folder.mkdir(parents=True)
        return made

    return make


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("stop", "workers"), [(2, 0), (4, 2), (8, 0)])
def test_resumed_training_is_bit_exact(folders, stop: int, workers: int) -> None:
    listener = Recorder()
    undisturbed = tiny.run(*folders("undisturbed"), listener=listener)
    folder, work = folders("stopped")
    with pytest.raises(KeyboardInterrupt):
        tiny.run(folder, work, listener=Recorder(stop))
    second = Recorder()
    resumed = tiny.run(folder, work, listener=second, workers=workers)
    assert equal(undisturbed, resumed)
    first = stop // 3 * 3
    assert second.calls == listener.calls[first:]
    lines = [json.loads(line) for line in (folder / LOG_NAME).read_text().splitlines()]
    assert lines == [{"iteration": done} | metrics for done, _, metrics in listener.calls]


def test_killed_process_resumes_bit_exact(folders) -> None:
    undisturbed = tiny.run(*folders("undisturbed"))
    folder, work = folders("killed")
    arguments = {"folder": str(folder), "work": str(work), "kill": 5}
    killed = subprocess.run([sys.executable, str(TINY), json.dumps(arguments)], check=False, capture_output=True, timeout=300)
    assert killed.returncode == -9, killed.stderr.decode()
    newest = max((work / "checkpoints").glob("*.pt"))
    newest.with_name("iter_00000007.pt.tmp").write_bytes(newest.read_bytes()[:100])  # cut while it was being written
    (work / LOG_NAME).open("a").write('{"iteration": 6, "lo')
    assert equal(undisturbed, tiny.run(folder, work))
    assert [json.loads(line)["iteration"] for line in (folder / LOG_NAME).read_text().splitlines()] == list(range(1, 9))
    assert not list((work / "checkpoints").glob("*.tmp"))


def test_schedule_is_warmup_then_steps(folders) -> None:
    listener = Recorder()
    tiny.run(*folders("a"), listener=listener, iterations=8, warmup=3, steps=(5, 7, 100), lr=0.1)
    rates = [metrics["lr"] for _, _, metrics in listener.calls]
    warm = [0.1 * (0.001 + 0.999 * i / 2) for i in range(2)]
    assert rates == pytest.approx([*warm, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001])


def test_warmup_takes_half_of_a_short_training_at_most(folders) -> None:
    listener = Recorder()
    tiny.run(*folders("a"), listener=listener, iterations=6, warmup=1000, steps=())
    rates = [metrics["lr"] for _, _, metrics in listener.calls]
    assert rates[2:] == pytest.approx([0.02] * 4)
    assert rates[0] < rates[1] < 0.02


def test_sgd_equals_a_literal_loop(folders) -> None:
    """One literal SGD step with weight decay on the very draws that training saw."""
    from mdp_mmengine.draws import Draws, seed_everything, seed_of
    from mdp_mmengine.models import build_model

    state = tiny.run(*folders("a"), dropout=0.0, iterations=1, warmup=0, steps=())
    seed_everything(seed_of(11, "model"))
    model = build_model({"type": "TinyRegressor", "dropout": 0.0}, "mmengine", initialise=True)
    draws = Draws(7, tiny.load, seed=11, total=4)
    batch = [draws[p] for p in range(4)]
    loss = model([item["inputs"] for item in batch], [item["targets"] for item in batch])["loss_fit"]
    loss.backward()
    for name, parameter in model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad + 1e-4 * parameter
        torch.testing.assert_close(state[name], parameter - 0.02 * gradient)


def test_loss_that_is_not_finite_stops_the_training(folders) -> None:
    folder, work = folders("a")
    with pytest.raises(StageError, match=r"iteration 1 of 4.*loss_fit = nan") as caught:
        train(
            {"type": "TinyRegressor", "explode": True},
            "mmengine",  # type: ignore[arg-type]
            Samples(7, tiny.load),
            Schedule(iterations=4, batch=2, lr=0.1, checkpoint_every=1),
            context=Context(),
            folder=folder,
            work=work,
        )
    assert "learning rate" in str(caught.value)
    assert not (work / "checkpoints").exists()


def test_files_stay_in_their_folders(folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    folder, _ = folders("a")
    tiny.run(folder, tmp_path / "a" / "work")
    assert not list(elsewhere.iterdir())
    assert [path.name for path in folder.iterdir()] == [LOG_NAME]


@pytest.mark.slow
def test_two_processes_train_what_one_trains(folders) -> None:
    """Without dropout and batch statistics, two gloo workers with half a batch each make the same steps as one process."""
    alone = tiny.run(*folders("alone"), dropout=0.0)
    folder, work = folders("two")
    arguments = json.dumps({"folder": str(folder), "work": str(work), "dropout": 0.0})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(TINY), arguments]
    result = subprocess.run(command, check=False, capture_output=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr.decode()[-2000:]
    together = load_file(folder / "state.safetensors")
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-6)
