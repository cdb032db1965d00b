"""Tasks on a real cluster, whose machines and processes come and go."""

import os
import time
from pathlib import Path

import pytest
import ray_work as work

from mdp_core.api import StageError


def tries(folder: Path, shard: int) -> list[list[str]]:
    return [line.split() for line in (folder / f"{shard}.tries").read_text().splitlines()]


def ends(pid: int, patience: float = 10) -> bool:
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_shards_are_done_told_and_logged(executor, second, recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDP_TOLD", "as the engine says")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    ray, heard, log = executor(), recorder(), tmp_path / "logs" / "a.log"
    ray.run([work.task("square", tmp_path, n, seconds=0.5) for n in range(6)], log, heard)
    assert [(tmp_path / f"{n}.txt").read_text() for n in range(6)] == [str(n**2) for n in range(6)]
    done = [tries(tmp_path, n) for n in range(6)]
    assert all(len(one) == 1 for one in done)
    assert len({one[0][1] for one in done}) == 2, "both machines work"
    assert len({one[0][0] for one in done}) == 2, "a worker does one shard after the other, and keeps what it has loaded"
    assert heard.notes == {f"square {n} device": "as the engine says" for n in range(6)}
    for n in range(6):
        assert [event for event in heard.events if event[0] == f"square {n}"][-1] == (f"square {n}", 4, 4, {})
    text = log.read_text()
    assert all(f"shard {n} printed" in text and f"shard {n} echoed" in text for n in range(6))
    ray.run([work.task("square", tmp_path, n) for n in (6, 7)], log, heard)
    workers = {one[0][0] for one in done}
    assert {tries(tmp_path, n)[0][0] for n in (6, 7)} <= workers, "the next step of the stage finds them"
    ray.run([work.task("square", tmp_path, 8, stage="b")], log, heard)
    assert tries(tmp_path, 8)[0][0] not in workers, "each stage has workers of its own"
    assert all(ends(int(worker)) for worker in workers)


def test_a_lost_machine(executor, cluster, second, recorder, tmp_path: Path) -> None:
    def lose() -> None:
        """Takes the second machine away once it is in the middle of a shard."""
        for file in tmp_path.glob("*.tries"):
            on_second = second.node_id in file.read_text()
            if on_second and not file.with_suffix(".txt").exists() and second in cluster.worker_nodes:
                cluster.remove_node(second)

    heard = recorder(lose)
    executor().run([work.task("square", tmp_path, n, seconds=0.8) for n in range(6)], tmp_path / "log", heard)
    assert [(tmp_path / f"{n}.txt").read_text() for n in range(6)] == [str(n**2) for n in range(6)]
    assert second not in cluster.worker_nodes
    twice = [n for n in range(6) if len(tries(tmp_path, n)) == 2]
    assert len(twice) == 1
    assert tries(tmp_path, twice[0])[0][1] == second.node_id != tries(tmp_path, twice[0])[1][1]
    assert heard.warnings == [f"square {twice[0]}: its process was lost (its machine is gone); it is done again"]


def test_a_killed_process(executor, recorder, tmp_path: Path) -> None:
    ray, heard, log = executor(retries=1), recorder(), tmp_path / "log"
    ray.run([work.task("square", tmp_path, n, kill=1, times=1) for n in range(2)], log, heard)
    assert (tmp_path / "1.txt").read_text() == "1"
    assert len(tries(tmp_path, 1)) == 2
    assert "killed" in heard.warnings[0]
    with pytest.raises(StageError, match=r"square 1 \(prior:x\): its process died \(killed.*2 times") as caught:
        ray.run([work.task("square", tmp_path, 1, kill=1, times=9)], log, heard)
    assert str(log) in str(caught.value.hint)
    assert len(tries(tmp_path, 1)) == 4


@pytest.mark.parametrize(
    ("how", "message", "hint"),
    [
        ("stage", "fail 3: there are no masks", "look at the prior"),
        ("crash", r"fail 3 \(prior:x\) crashed: ZeroDivisionError: by zero", "traceback: "),
    ],
)
def test_errors_of_a_plugin_are_not_retried(executor, recorder, tmp_path: Path, how: str, message: str, hint: str) -> None:
    with pytest.raises(StageError, match=f"^{message}") as caught:
        executor().run([work.task("fail", tmp_path, 3, how=how)], tmp_path / "log", recorder())
    assert str(caught.value.hint).startswith(hint)
    assert (tmp_path / "tries").read_text() == "x"
    assert "Traceback" in (tmp_path / "log").read_text()


def test_ctrl_c_leaves_nothing_running(executor, recorder, tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        executor().run([work.task("square", tmp_path, n, seconds=8) for n in range(3)], tmp_path / "log", recorder(interrupt))
    (begun,) = tmp_path.glob("*.tries")
    assert ends(int(begun.read_text().split()[0]))
    assert not list(tmp_path.glob("*.txt"))


def test_every_metric_of_a_training_arrives_in_order(executor, recorder, tmp_path: Path) -> None:
    heard = recorder()
    executor().run([work.task("learn", tmp_path)], tmp_path / "log", heard)
    assert heard.events == [("learn None", n + 1, 300, {"loss": float(n)}) for n in range(300)]
    assert heard.warnings == ["this is quick"]


def test_what_the_cluster_does_not_have(executor, recorder, tmp_path: Path) -> None:
    one = [work.task("square", tmp_path, 0)]
    with pytest.raises(StageError, match=r"square 0: it needs 7 CPUs, and the Ray cluster has a machine of 1 CPUs"):
        executor(cpus_per_task=7).run(one, tmp_path / "log", recorder())
    with pytest.raises(StageError, match="it needs 1 CPU and 1 GPU, and"):
        executor().run([work.task("square", tmp_path, 0, device="cuda")], tmp_path / "log", recorder())
    with pytest.raises(StageError, match="device cuda:1 is a GPU of one machine") as caught:
        executor().run([work.task("square", tmp_path, 0, device="cuda:1")], tmp_path / "log", recorder())
    assert caught.value.hint == "write device: cuda"
    with pytest.raises(StageError, match="it needs 2 times 1 CPU, and"):
        executor(train_workers=2).run([work.task("train", tmp_path, distributed=True)], tmp_path / "log", recorder())
