from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from mdp_core.engine.cache import Cache, Stored, repair, verify
from mdp_core.engine.store import Manifest
from mdp_core.errors import StoreError

from .stores import begin, payload, run, stored


def test_the_inventory(tmp_path: Path) -> None:
    whole = stored(tmp_path, images=12, size=1000)
    unfinished = begin(tmp_path, payload("prior", "mine", seed=1))
    unfinished.parts.mkdir()
    (unfinished.parts / "00000.parquet").write_bytes(b"x")
    unfinished.stamp_part("00000.parquet")
    gone = stored(tmp_path, "segmenter", "fit")
    (gone.entry.parts / "00000.parquet").unlink()
    cut = stored(tmp_path, "segmenter", "fit", seed=2)
    (cut.entry.folder / "manifest.json").write_text("{")
    (tmp_path / "store" / "scans").mkdir()
    (tmp_path / "store" / ".trash" / "prior-mine").mkdir(parents=True)
    found = {s.key: s for s in Cache(tmp_path).all()}
    assert {key: s.state for key, s in found.items()} == {
        whole.key: "whole",
        unfinished.folder.name: "unfinished",
        gone.key: "damaged",
        cut.key: "damaged",
    }
    assert found[whole.key].plugin == "toy"
    assert found[unfinished.folder.name].parts == 1
    files = [f for f in whole.entry.folder.rglob("*") if f.is_file()]
    assert found[whole.key].bytes == sum(f.stat().st_size for f in files) > 1000
    assert found[whole.key].changed == max(f.stat().st_mtime for f in files)


def test_a_result_that_somebody_makes(tmp_path: Path) -> None:
    entry = begin(tmp_path, payload("prior", "mine"))
    with FileLock(entry.lock):
        assert Stored(entry).state == "being made"
        assert verify([Stored(entry)]) == []
    assert Stored(entry).state == "unfinished"


def test_finding_by_the_beginning_of_a_key(tmp_path: Path) -> None:
    there = [stored(tmp_path, seed=n) for n in range(40)]
    cache = Cache(tmp_path)
    assert cache.find(there[3].key) == there[3]
    assert cache.find(there[3].key[:10]) == there[3]
    assert cache.find(f"prior-mine/{there[3].key[:10]}") == there[3]
    first = next(s.key[0] for s in there if sum(t.key[0] == s.key[0] for t in there) > 1)
    with pytest.raises(StoreError, match="results have such a key: prior-mine/"):
        cache.find(first)
    for nothing in ("xyz", "", f"detector-fit/{there[3].key}"):
        with pytest.raises(StoreError, match="no result"):
            cache.find(nothing)


def test_who_uses_what_and_what_it_was_made_from(tmp_path: Path) -> None:
    weights = stored(tmp_path, "pretrainer", "fit")
    mined = stored(tmp_path, settings={"nets": [{"weights": f"stage-key:{weights.key}"}]})
    fit = stored(tmp_path, "clusterer", "fit", inputs={"embeddings": mined.key})
    alone = stored(tmp_path, seed=5)
    later = stored(tmp_path, seed=6)
    assert fit.inputs() == {"embeddings": mined.key}
    assert mined.inputs() == {"weights": weights.key}
    run(tmp_path, "one", fit)
    run(tmp_path, "two", fit, status="running", planned=(later,))
    cache = Cache(tmp_path)
    assert cache.users() == {fit.place: ["one", "two"], later.place: ["two"]}
    assert cache.kept(cache.users()) == {fit.place, mined.place, weights.place, later.place}
    assert alone.place not in cache.kept(cache.users())
    (tmp_path / "runs" / "two" / "run.json").write_text("{")
    with pytest.raises(StoreError, match="what this run uses is not known") as caught:
        cache.users()
    assert "mdp runs rm two" in str(caught.value)


def test_verification_finds_every_kind_of_damage(tmp_path: Path) -> None:
    there = [stored(tmp_path, seed=n) for n in range(6)]
    (there[1].entry.parts / "00000.parquet").write_bytes(b"PART")
    (there[2].entry.parts / "00000.parquet").unlink()
    (there[3].entry.folder / "key.json").write_text('{"format": 1}')
    (there[4].entry.folder / "manifest.json").write_text("{")
    told: list[tuple[int, int]] = []
    verdicts = verify(Cache(tmp_path).all(), lambda done, total: told.append((done, total)))
    by_key = {v.stored.key: v for v in verdicts}
    assert [by_key[s.key].whole for s in there] == [True, False, False, False, False, True]
    assert by_key[there[1].key].damaged == by_key[there[2].key].damaged == ("parts/00000.parquet",)
    assert "key.json" in by_key[there[3].key].problem
    assert "manifest" in by_key[there[4].key].problem
    assert told[-1] == (6, 6)


def test_repair_lets_the_damaged_part_be_made_anew_and_no_other(tmp_path: Path) -> None:
    result = stored(tmp_path)
    entry = result.entry
    (entry.parts / "00001.parquet").write_bytes(b"second")
    entry.stamp_part("00001.parquet")
    entry.finish(["parts/00000.parquet", "parts/00001.parquet"], Manifest({}))
    (entry.parts / "00001.parquet").write_bytes(b"SECOND")
    (verdict,) = verify(Cache(tmp_path).all())
    with FileLock(entry.lock):
        assert not repair(verdict), "somebody works on it"
    assert entry.manifest() is not None
    assert repair(verdict)
    assert entry.manifest() is None
    assert entry.finished_part("00000.parquet")
    assert not (entry.parts / "00001.parquet").exists()
    assert (entry.folder / "key.json").is_file()


def test_a_store_copied_elsewhere_is_as_whole(tmp_path: Path) -> None:
    for n in range(3):
        stored(tmp_path / "a", seed=n, age=n * 1000)
    shutil.copytree(tmp_path / "a" / "store", tmp_path / "b" / "store", copy_function=shutil.copyfile)
    here, there = Cache(tmp_path / "a").all(), Cache(tmp_path / "b").all()
    assert [s.place for s in here] == [s.place for s in there]
    assert all(v.whole for v in verify(there))
    assert len(there) == 3
