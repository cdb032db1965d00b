from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from mdp_core.engine.cache import Cache, Stored
from mdp_core.engine.garbage import Limits, collect, find_garbage, remove_run
from mdp_core.engine.record import find_run
from mdp_core.errors import RunError, StoreError

from .stores import begin, payload, run, stored

DAY = 86400.0


def there(home: Path) -> set[str]:
    return {s.place for s in Cache(home).all()}


def test_what_runs_of_any_status_refer_to_stays(tmp_path: Path) -> None:
    source = stored(tmp_path, age=400 * DAY)
    used = [stored(tmp_path, "clusterer", "embed", seed=n, inputs={"instances": source.key}, age=300 * DAY) for n in range(4)]
    unfinished = Stored(begin(tmp_path, payload("detector", "fit")))
    free = stored(tmp_path, seed=99)
    size = free.bytes
    for status, result in zip(("finished", "failed", "killed"), used, strict=False):
        run(tmp_path, status, result, status=status)
    run(tmp_path, "interrupted", status="interrupted", planned=(used[3], unfinished))
    cache = Cache(tmp_path)
    dry = find_garbage(cache, Limits())
    assert [s.place for s in dry.results] == [free.place]
    assert free.place in there(tmp_path), "nothing was removed"
    found = collect(cache, Limits())
    assert there(tmp_path) == {source.place, unfinished.place, *(s.place for s in used)}
    assert found.bytes == dry.bytes == size > 0
    assert not (tmp_path / "store" / ".trash").exists()
    assert not free.entry.lock.exists()
    assert collect(cache, Limits()).results == []


def test_limits_take_the_oldest_first(tmp_path: Path) -> None:
    run(tmp_path, "run", kept := stored(tmp_path, age=90 * DAY, size=5000))
    old = [stored(tmp_path, seed=n, age=n * DAY, size=1000) for n in range(1, 6)]
    cache = Cache(tmp_path)

    def removed(**limits: float | int) -> list[str]:
        return [s.place for s in find_garbage(cache, Limits(**limits)).results]  # type: ignore[arg-type]

    by_age = [s.place for s in reversed(old)]
    assert removed() == by_age
    assert removed(older_than=3.5 * DAY) == by_age[:2]
    total = sum(s.bytes for s in cache.all())
    assert removed(max_size=total) == []
    assert removed(max_size=total - 1) == by_age[:1]
    assert removed(max_size=total - old[0].bytes - 1) == by_age[:2]
    assert removed(max_size=0) == by_age, "never what a run refers to"
    assert removed(max_size=total - 1, older_than=3.5 * DAY) == by_age[:2], "either is reason enough"
    assert kept.place not in removed(max_size=0)


def test_runs_go_only_when_asked_and_never_one_under_way(tmp_path: Path) -> None:
    old, new = stored(tmp_path, seed=1), stored(tmp_path, seed=2)
    run(tmp_path, "old", old)
    run(tmp_path, "new", new, started="2999-01-01T00:00:00+00:00")
    run(tmp_path, "going", status="running", planned=(both := stored(tmp_path, seed=3),))
    cache = Cache(tmp_path)
    assert find_garbage(cache, Limits()).results == []
    found = collect(cache, Limits(runs_older_than=30 * DAY))
    assert [r.id for r in found.runs] == ["old"]
    assert found.of_runs > 0
    assert there(tmp_path) == {new.place, both.place}
    assert sorted(f.name for f in (tmp_path / "runs").iterdir()) == ["going", "new"]


def test_a_result_that_somebody_works_on_is_left_alone(tmp_path: Path) -> None:
    run(tmp_path, "run")
    busy, free = stored(tmp_path, seed=1), stored(tmp_path, seed=2)
    with FileLock(busy.entry.lock):
        found = collect(Cache(tmp_path), Limits())
        assert [s.place for s in found.skipped] == [busy.place]
        assert [s.place for s in found.results] == [free.place]
        assert there(tmp_path) == {busy.place}
    collect(Cache(tmp_path), Limits())
    assert there(tmp_path) == set()


def test_without_any_run_nothing_goes_unless_that_is_said(tmp_path: Path) -> None:
    stored(tmp_path)
    with pytest.raises(StoreError, match="there are no runs") as caught:
        collect(Cache(tmp_path), Limits())
    assert "--everything" in str(caught.value)
    collect(Cache(tmp_path), Limits(everything=True))
    assert there(tmp_path) == set()
    assert collect(Cache(tmp_path), Limits()).results == [], "an empty store needs no word"


def test_a_run_under_way_that_does_not_say_what_it_uses(tmp_path: Path) -> None:
    result = stored(tmp_path)
    run(tmp_path, "going", status="running", planned=(result,), places={})
    with pytest.raises(StoreError, match="does not say which results it will use"):
        collect(Cache(tmp_path), Limits())


def test_leftovers(tmp_path: Path) -> None:
    kept = stored(tmp_path)
    run(tmp_path, "run", kept, planned=(waiting := Stored(begin(tmp_path / "other", payload("prior", "mine", seed=8))),))
    group, scans = kept.entry.folder.parent, tmp_path / "store" / "scans"
    scans.mkdir()
    (group / f"{'0' * 32}.lock").touch()
    (group / f"{waiting.key}.lock").touch()
    half = kept.entry.parts / ".00001.parquet.77-aa.tmp"
    half.write_bytes(b"half")
    fresh = kept.entry.parts / ".00002.parquet.78-aa.tmp"
    fresh.write_bytes(b"half")
    os.utime(half, (1, 1))
    (tmp_path / "photos").mkdir()
    (scans / "images-a.json").write_text(f'{{"format":2,"folders":{{"{tmp_path / "photos"}":[]}}}}')
    (scans / "images-b.json").write_text(f'{{"format":2,"folders":{{"{tmp_path / "gone"}":[]}}}}')
    (scans / "images-c.json").write_text('{"/a.png": {"stamp": [1, 2]}}')
    trash = tmp_path / "store" / ".trash" / "x"
    trash.mkdir(parents=True)
    found = collect(Cache(tmp_path), Limits())
    assert {f.path.name for f in found.leftovers} == {
        ".trash", f"{'0' * 32}.lock", half.name, "images-b.json", "images-c.json",
    }  # fmt: skip
    assert sorted(f.name for f in scans.iterdir()) == ["images-a.json"]
    assert (group / f"{waiting.key}.lock").exists(), "a run means to use it"
    assert fresh.exists(), "it may be somebody's"
    assert not half.exists()
    assert not (tmp_path / "store" / ".trash").exists()
    assert [v for v in Cache(tmp_path).all() if v.state != "whole"] == []


KILLED = """
import shutil, sys, time
from pathlib import Path
from mdp_core.engine import garbage
from mdp_core.engine.cache import Cache
def stall(path):
    print("emptying", flush=True)
    time.sleep(60)
garbage.remove = stall
garbage.collect(Cache(Path(sys.argv[1])), garbage.Limits())
"""


def test_a_collection_that_is_killed_leaves_results_whole_or_gone(tmp_path: Path) -> None:
    run(tmp_path, "run", kept := stored(tmp_path))
    free = stored(tmp_path, seed=1)
    size = free.bytes
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "emptying\n"
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    process.stdout.close()
    assert there(tmp_path) == {kept.place}
    assert len(list((tmp_path / "store" / ".trash").iterdir())) == 1
    found = collect(Cache(tmp_path), Limits())
    assert found.bytes >= size
    assert not (tmp_path / "store" / ".trash").exists()


RACE = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from stores import run, stored
from mdp_core.engine.cache import Cache, Stored
from mdp_core.engine.store import Store
home = Path(sys.argv[1])
result = Cache(home).all()[0]
with Store(home).registering():
    print("registering", flush=True)
    time.sleep(1.5)
    run(home, "late", status="running", planned=(result,))
"""


def test_a_run_that_registers_at_the_same_time_keeps_its_hit(tmp_path: Path) -> None:
    run(tmp_path, "run")
    result = stored(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", RACE, str(tmp_path), str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "registering\n"
    started = time.monotonic()
    found = collect(Cache(tmp_path), Limits())
    assert time.monotonic() - started > 0.5, "it waited"
    assert process.wait(30) == 0
    process.stdout.close()
    assert found.results == []
    assert there(tmp_path) == {result.place}


def test_removing_a_run(tmp_path: Path) -> None:
    run(tmp_path, "done", result := stored(tmp_path))
    run(tmp_path, "going", status="running")
    remove_run(find_run(tmp_path, "done"))
    assert [f.name for f in (tmp_path / "runs").iterdir()] == ["going"]
    assert there(tmp_path) == {result.place}
    with pytest.raises(RunError, match="going is under way"):
        remove_run(find_run(tmp_path, "going"))
