"""The executors that come with the core: all give what serial gives, and fail the same way."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from mdp_core.errors import StageError
from mdp_core.executors.inline import InlineExecutor
from mdp_core.executors.process import ProcessExecutor, gpus
from mdp_core.executors.serial import SerialExecutor
from mdp_core.executors.settings import ProcessConfig, SerialConfig
from mdp_core.stages.base import Listener
from mdp_core.stages.executor import Executor, Task

# What tasks do: ``job`` is JSON of how to behave. Workers import this module by name, so its folder must be on their path.


def work(text: str, shard: int | None, listener: Listener) -> None:
    job = json.loads(text)
    folder = Path(job["folder"])
    if job.get("child") == "thread":
        thread = threading.Thread(target=_fork)
        thread.start()
        thread.join()
    elif job.get("child"):
        _fork()
    if job.get("fail", -1) == shard:
        raise StageError("no bread", hint="bake some")
    if job.get("crash", -1) == shard:
        raise ZeroDivisionError("one by none")
    if job.get("exit", -1) == shard:
        os.kill(os.getpid(), signal.SIGKILL)
    listener.note("pid", "some")
    listener.warn("it is late")
    listener.progress(1, 2, {"loss": 0.5})
    time.sleep(job.get("seconds", 0))
    rank = os.environ.get("RANK", "-")
    (folder / f"{shard}-{rank}").write_text(f"{os.getpid()} {os.environ.get('OMP_NUM_THREADS')} {os.environ.get('WORLD_SIZE')}")
    listener.progress(2, 2, {})


def _fork() -> None:
    """Forks as data loaders do: a process that holds the worker's pipes."""
    if not os.fork():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(300)
        os._exit(0)


class Heard:
    def __init__(self) -> None:
        self.events: list[tuple[int | None, str, object]] = []
        self.threads: set[int] = set()

    def progress(self, task: Task, done: int, total: int, metrics: Mapping[str, float]) -> None:
        self.threads.add(threading.get_ident())
        self.events.append((task.shard, "progress", (done, total, dict(metrics))))

    def note(self, task: Task, name: str, value: str) -> None:
        self.events.append((task.shard, name, value))

    def warn(self, task: Task, message: str) -> None:
        self.events.append((task.shard, "warn", message))


@pytest.fixture(autouse=True)
def _on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def tasks(folder: Path, count: int | None, **behaviour: object) -> list[Task]:
    job = json.dumps({"folder": str(folder), **behaviour})
    shards = [None] if count is None else list(range(count))
    return [Task(f"s {n}", "s", job, n, 2, "prior:x", device="cpu", function="test_executors:work") for n in shards]


EXECUTORS = [
    lambda: SerialExecutor(SerialConfig()),
    lambda: InlineExecutor(SerialConfig()),
    lambda: ProcessExecutor(ProcessConfig(workers=2)),
]


@pytest.mark.parametrize("make", EXECUTORS)
def test_all_tasks_are_done_and_heard_of(make: type, tmp_path: Path) -> None:
    executor: Executor = make()
    heard = Heard()
    executor.run(tasks(tmp_path, 5), tmp_path / "log.txt", heard)
    executor.close()
    assert sorted(f.name for f in tmp_path.iterdir() if f.name != "log.txt") == [f"{n}--" for n in range(5)]
    for n in range(5):
        mine = [e[1:] for e in heard.events if e[0] == n]
        assert mine == [
            ("pid", "some"),
            ("warn", "it is late"),
            ("progress", (1, 2, {"loss": 0.5})),
            ("progress", (2, 2, {})),
        ]


def test_two_workers_share_the_shards_and_the_cores(tmp_path: Path) -> None:
    executor = ProcessExecutor(ProcessConfig(workers=2))
    executor.run(tasks(tmp_path, 6, seconds=0.3), tmp_path / "log.txt", Heard())
    told = [(tmp_path / f"{n}--").read_text().split() for n in range(6)]
    assert len({pid for pid, *_ in told}) == 2
    assert {threads for _, threads, _ in told} == {str(max(1, (os.cpu_count() or 1) // 2))}
    executor.run(tasks(tmp_path, 6), tmp_path / "log.txt", Heard())
    again = {(tmp_path / f"{n}--").read_text().split()[0] for n in range(6)}
    assert again <= {pid for pid, *_ in told}, "the workers of a stage stay, with their weights"
    executor.run(tasks(tmp_path, None), tmp_path / "log.txt", Heard())
    assert (tmp_path / "None--").read_text().split()[1] in ("None", str(os.cpu_count())), "who works alone has all cores"
    executor.close()


@pytest.mark.parametrize("make", EXECUTORS)
def test_an_error_for_people_reaches_them(make: type, tmp_path: Path) -> None:
    executor: Executor = make()
    with pytest.raises(StageError, match="no bread") as caught:
        executor.run(tasks(tmp_path, 5, fail=2, seconds=0.05), tmp_path / "log.txt", Heard())
    assert caught.value.hint == "bake some"
    executor.close()


@pytest.mark.parametrize("make", [EXECUTORS[0], EXECUTORS[2]])
@pytest.mark.parametrize(
    ("how", "words"), [("crash", r"s 1 \(prior:x\) crashed: ZeroDivisionError: one by none"), ("exit", "s 1 .*SIGKILL")]
)
def test_a_crash_names_the_task_and_the_log(make: type, how: str, words: str, tmp_path: Path) -> None:
    executor: Executor = make()
    with pytest.raises(StageError, match=words) as caught:
        executor.run(tasks(tmp_path, 3, **{how: 1}), tmp_path / "log.txt", Heard())
    assert str(tmp_path / "log.txt") in str(caught.value.hint)
    if how == "crash":
        assert "ZeroDivisionError" in (tmp_path / "log.txt").read_text()
    executor.close()


@pytest.mark.parametrize("make", [EXECUTORS[0], EXECUTORS[2]])
def test_ctrl_c_ends_the_workers(make: type, tmp_path: Path) -> None:
    class Impatient(Heard):
        def progress(self, task: Task, done: int, total: int, metrics: Mapping[str, float]) -> None:
            if threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    executor: Executor = make()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        executor.run(tasks(tmp_path, 4, seconds=60, child=True), tmp_path / "log.txt", Impatient())
    assert time.monotonic() - started < 20
    assert not list(tmp_path.glob("?--"))
    executor.close()


def test_a_training_that_can_is_done_by_several(tmp_path: Path) -> None:
    task = tasks(tmp_path, None)[0]
    together = Task(**{**vars(task), "distributed": True})
    executor = ProcessExecutor(ProcessConfig(train_workers=2))
    executor.run([together], tmp_path / "log.txt", Heard())
    told = {f.name: f.read_text().split() for f in tmp_path.glob("None-*")}
    assert set(told) == {"None-0", "None-1"}
    assert {world for _, _, world in told.values()} == {"2"}
    executor.run([task], tmp_path / "log.txt", Heard())
    assert (tmp_path / "None--").is_file(), "what cannot be shared is done by one"
    executor.close()


def test_when_one_of_several_fails_the_others_end(tmp_path: Path) -> None:
    task = Task(**{**vars(tasks(tmp_path, None, exit=None, seconds=60)[0]), "distributed": True})
    executor = ProcessExecutor(ProcessConfig(train_workers=2))
    with pytest.raises(StageError, match="SIGKILL"):
        executor.run([task], tmp_path / "log.txt", Heard())


@pytest.mark.parametrize("make", [EXECUTORS[0], EXECUTORS[2]])
def test_a_killed_nursery_is_an_error_for_people(make: type, tmp_path: Path) -> None:
    class Kills(Heard):
        def progress(self, task: Task, done: int, total: int, metrics: Mapping[str, float]) -> None:
            os.kill(executor._nursery._process.pid, signal.SIGKILL)

    executor = make()
    with pytest.raises(StageError, match="SIGKILL: most often the machine ran out of memory"):
        executor.run(tasks(tmp_path, 3, seconds=5), tmp_path / "log.txt", Kills())
    executor.close()


@pytest.mark.parametrize("child", ["main", "thread"])
@pytest.mark.parametrize("make", [EXECUTORS[0], EXECUTORS[2]])
def test_what_a_worker_forked_ends_with_it(make: type, child: str, tmp_path: Path) -> None:
    executor: Executor = make()
    started = time.monotonic()
    with pytest.raises(StageError, match="SIGKILL"):
        executor.run(tasks(tmp_path, 2, exit=0, child=child), tmp_path / "log.txt", Heard())
    assert time.monotonic() - started < 60, "the child, which holds the worker's pipes, would have slept for 300 s"
    executor.close()


def test_gpus_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert gpus() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus() == []
