"""The coordinator: shards, progress, notes, curves and manifests of one step, whatever executor does the tasks."""

from __future__ import annotations

import fcntl
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mdp_core.data.storage import write_text
from mdp_core.engine.coordinate import CURVE, Coordinator
from mdp_core.engine.jobs import Job
from mdp_core.engine.store import Entry
from mdp_core.errors import StageError
from mdp_core.executors.settings import SerialConfig
from mdp_core.stages.executor import Executor, Task, TaskListener

JOB = Job(
    id="prior.mine[train]", stage="prior", kind="prior", step="mine", plugin="x", settings={}, entry="", images="", dataset=("d", {}),
    inputs={}, seed=0, device="cpu", shard_size=4, weights={"file:/store/w": "stage:pre"},
)  # fmt: skip


class Writes(Executor[SerialConfig]):
    """Writes a part a shard, last shard first, and tells of everything."""

    Config = SerialConfig

    def __init__(self, entry: Entry, fail_at: int | None = None) -> None:
        super().__init__(SerialConfig())
        self.entry, self.fail_at = entry, fail_at
        self.seen: list[list[Task]] = []

    def run(self, tasks: Sequence[Task], log: Path, listener: TaskListener) -> None:
        self.seen.append(list(tasks))
        for task in reversed(tasks):
            if task.shard is None:
                write_text(self.entry.result / "model", "x")
                for done in (1, 2, 2):
                    listener.progress(task, done, 2, {"loss": 1 / done})
                listener.note(task, "clusters", "7")
                continue
            if task.shard == self.fail_at:
                raise StageError("no")
            listener.note(task, "weights", "file:/store/w sha256:1")
            listener.warn(task, "late")
            listener.progress(task, task.images, task.images, {})
            write_text(self.entry.parts / f"{task.shard:05d}.parquet", str(task.shard))
            self.entry.stamp_part(f"{task.shard:05d}.parquet")


class Heard:
    def __init__(self) -> None:
        self.told: list[object] = []

    def progress(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        self.told.append((done, total))

    def note(self, name: str, value: str) -> None:
        self.told.append((name, value))

    def warn(self, message: str) -> None:
        self.told.append(message)


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return Entry(tmp_path / "prior-mine" / "k", {"key": 1})


def test_shards_become_tasks_and_their_news_the_steps(entry: Entry, tmp_path: Path) -> None:
    executor, heard = Writes(entry), Heard()
    assert Coordinator(executor).complete(JOB, entry, 10, tmp_path / "log", heard)
    assert [(t.id, t.shard, t.images) for t in executor.seen[0]] == [
        ("prior.mine[train] shard 1/3", 0, 4),
        ("prior.mine[train] shard 2/3", 1, 4),
        ("prior.mine[train] shard 3/3", 2, 2),
    ]
    assert heard.told == [("weights", "stage:pre sha256:1"), "late", (2, 10), (6, 10), (10, 10)]
    manifest = entry.manifest()
    assert manifest is not None
    assert (manifest.images, manifest.notes, tuple(manifest.warnings)) == (10, {"weights": "stage:pre sha256:1"}, ("late",))
    assert entry.damage() == []
    assert not Coordinator(executor).complete(JOB, entry, 10, tmp_path / "log", heard), "a second time there is nothing to do"
    assert len(executor.seen) == 1


def test_after_a_failure_only_what_is_missing_is_a_task(entry: Entry, tmp_path: Path) -> None:
    with pytest.raises(StageError):
        Coordinator(Writes(entry, fail_at=1)).complete(JOB, entry, 10, tmp_path / "log", Heard())
    assert entry.manifest() is None
    executor, heard = Writes(entry), Heard()
    Coordinator(executor).complete(JOB, entry, 10, tmp_path / "log", heard)
    assert [t.shard for t in executor.seen[0]] == [0, 1]
    assert heard.told[-1] == (10, 10)
    assert entry.manifest().images == 8  # type: ignore[union-attr]


def test_a_damaged_part_alone_is_made_again(entry: Entry, tmp_path: Path) -> None:
    Coordinator(Writes(entry)).complete(JOB, entry, 10, tmp_path / "log", Heard())
    (entry.parts / "00001.parquet").write_text("rubbish")
    executor = Writes(entry)
    assert Coordinator(executor).complete(JOB, entry, 10, tmp_path / "log", Heard())
    assert [t.shard for t in executor.seen[0]] == [1]


def test_parts_cut_another_way_are_not_mixed(entry: Entry, tmp_path: Path) -> None:
    with pytest.raises(StageError):
        Coordinator(Writes(entry, fail_at=1)).complete(JOB, entry, 10, tmp_path / "log", Heard())
    executor = Writes(entry)
    Coordinator(executor).complete(replace(JOB, shard_size=5), entry, 10, tmp_path / "log", Heard())
    assert [t.shard for t in executor.seen[0]] == [0, 1]
    assert entry.shard_size() == 5


def test_the_metrics_of_a_training_stay_beside_its_result(tmp_path: Path) -> None:
    entry = Entry(tmp_path / "clusterer-fit" / "k", {})
    job = replace(JOB, kind="clusterer", step="fit")
    Coordinator(Writes(entry)).complete(job, entry, 10, tmp_path / "log", Heard())
    lines = [json.loads(line) for line in (entry.folder / CURVE).read_text().splitlines()]
    assert [(line["done"], line["total"], line["metrics"]["loss"]) for line in lines] == [(1, 2, 1.0), (2, 2, 0.5), (2, 2, 0.5)]
    manifest = entry.manifest()
    assert manifest is not None
    assert manifest.clusters == 7
    assert "clusters" not in manifest.notes
    assert not entry.work.exists()


def test_the_seconds_of_an_interrupted_training_count(tmp_path: Path) -> None:
    entry = Entry(tmp_path / "clusterer-fit" / "k", {})
    job = replace(JOB, kind="clusterer", step="fit")
    entry.work.mkdir(parents=True)
    whole = {"done": 1, "total": 2, "metrics": {"loss": 2.0}, "seconds": 100.0}
    (entry.folder / CURVE).write_text(json.dumps(whole) + '\n{"done": 2, "tot')
    Coordinator(Writes(entry)).complete(job, entry, 10, tmp_path / "log", Heard())
    assert 100 < entry.manifest().seconds < 110  # type: ignore[union-attr]
    entry.reopen()
    Coordinator(Writes(entry)).complete(job, entry, 10, tmp_path / "log", Heard())
    assert entry.manifest().seconds < 10, "what is trained from the beginning has taken no time yet"  # type: ignore[union-attr]
    assert len((entry.folder / CURVE).read_text().splitlines()) == 3


def test_who_waits_for_another_process_reuses_its_result(entry: Entry, tmp_path: Path) -> None:
    entry.folder.parent.mkdir(parents=True)
    heard, executor = Heard(), Writes(entry)
    other = entry.lock.open("w")  # as another process would hold it
    fcntl.flock(other, fcntl.LOCK_EX)

    def finish() -> None:
        done = Entry(entry.folder, entry.payload)
        done.begin()
        Coordinator(Writes(done))._complete(JOB, done, 10, tmp_path / "log", Heard(), False)
        other.close()

    thread = threading.Timer(1.5, finish)
    thread.start()
    assert not Coordinator(executor).complete(JOB, entry, 10, tmp_path / "log", heard)
    thread.join()
    assert heard.told == ["another process works on this step; waiting for its result"]
    assert executor.seen == []
