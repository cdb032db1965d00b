from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mdp_core.engine.store import Entry, Manifest, Store, contents_sha256, disk_errors
from mdp_core.errors import StoreError


def entry_with_parts(home: Path) -> Entry:
    entry = Store(home).entry("prior", "mine", "abc", {"settings": {"topk": 0.4}})
    entry.begin()
    entry.parts.mkdir()
    (entry.parts / "00000.parquet").write_bytes(b"one")
    folder = entry.parts / "00001" / "deep"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(b"two")
    return entry


def test_a_result_is_complete_only_with_its_manifest(tmp_path: Path) -> None:
    entry = entry_with_parts(tmp_path)
    assert entry.manifest() is None
    entry.finish(["parts/00000.parquet", "parts/00001"], Manifest({}, {"weights": "x"}, ["careful"], 1.5, 3))
    manifest = entry.manifest()
    assert manifest is not None
    assert (manifest.notes, manifest.warnings, manifest.seconds, manifest.clusters) == ({"weights": "x"}, ("careful",), 1.5, 3)
    assert entry.damage() == []


@pytest.mark.parametrize("name", ["parts/00000.parquet", "parts/00001"])
@pytest.mark.parametrize("harm", ["change", "remove", "add"])
def test_damage_is_found(tmp_path: Path, name: str, harm: str) -> None:
    entry = entry_with_parts(tmp_path)
    entry.finish(["parts/00000.parquet", "parts/00001"], Manifest({}))
    path = entry.folder / name
    inner = path if path.is_file() else path / "deep" / "a.png"
    if harm == "change":
        inner.write_bytes(b"TWO")
    elif harm == "remove":
        inner.unlink()
    elif path.is_dir():
        (path / "more.png").write_bytes(b"")
    else:
        path.write_bytes(b"one more")
    assert entry.damage() == [name]


def test_a_part_counts_only_with_its_stamp_and_unchanged(tmp_path: Path) -> None:
    entry = entry_with_parts(tmp_path)
    assert not entry.finished_part("00000.parquet")
    assert not (entry.parts / "00000.parquet").exists(), "an unstamped part is removed, it may be cut off"
    (entry.parts / "00000.parquet").write_bytes(b"one")
    entry.stamp_part("00000.parquet")
    entry.stamp_part("00001")
    assert entry.finished_part("00000.parquet")
    assert entry.finished_part("00001")
    (entry.parts / "00001" / "deep" / "a.png").write_bytes(b"changed")
    assert not entry.finished_part("00001")
    assert [p.name for p in entry.part_files()] == ["00000.parquet"]


def test_half_written_files_are_swept(tmp_path: Path) -> None:
    entry = entry_with_parts(tmp_path)
    (entry.parts / ".00002.1-aa.tmp").mkdir()
    (entry.folder / ".result.1-aa.tmp").write_text("")
    entry.sweep()
    assert sorted(p.name for p in entry.parts.iterdir()) == ["00000.parquet", "00001"]
    assert not (entry.folder / ".result.1-aa.tmp").exists()


def test_a_cut_off_manifest_is_no_manifest(tmp_path: Path) -> None:
    entry = entry_with_parts(tmp_path)
    entry.finish(["parts/00000.parquet"], Manifest({}))
    file = entry.folder / "manifest.json"
    file.write_text(file.read_text()[:-20])
    assert entry.manifest() is None


def test_images_done_are_kept_with_the_seconds_and_default_to_none(tmp_path: Path) -> None:
    entry = entry_with_parts(tmp_path)
    entry.finish(["parts/00000.parquet"], Manifest({}, seconds=2.0, images=7))
    manifest = entry.manifest()
    assert manifest is not None
    assert manifest.images == 7
    file = entry.folder / "manifest.json"
    old = json.loads(file.read_text())
    del old["images"]
    file.write_text(json.dumps(old))
    manifest = entry.manifest()
    assert manifest is not None
    assert manifest.images == 0


def test_the_parts_of_a_complete_result_are_those_of_its_manifest(tmp_path: Path) -> None:
    entry = entry_with_parts(tmp_path)
    entry.finish(["parts/00000.parquet", "parts/00001"], Manifest({}))
    (entry.parts / "00000 (copy).parquet").write_bytes(b"one")
    assert [p.name for p in entry.part_files()] == ["00000.parquet", "00001"]


def test_a_run_registers_while_others_do_but_not_while_garbage_is_collected(tmp_path: Path) -> None:
    store, order = Store(tmp_path), []
    with store.registering(), store.registering():
        collecting = threading.Thread(target=lambda: _note(store.collecting, order, "collected"))
        collecting.start()
        collecting.join(0.3)
        order.append("registered")
    collecting.join(10)
    assert order == ["registered", "collected"]


def _note(lock: Callable[[], AbstractContextManager[None]], order: list[str], what: str) -> None:
    with lock():
        order.append(what)


def test_contents_hash_follows_names_and_contents_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "x").mkdir(parents=True)
        (tmp_path / name / "x" / "file").write_text("same")
    assert contents_sha256(tmp_path / "a") == contents_sha256(tmp_path / "b")
    (tmp_path / "b" / "x" / "file").rename(tmp_path / "b" / "x" / "other")
    assert contents_sha256(tmp_path / "a") != contents_sha256(tmp_path / "b")
    assert contents_sha256(tmp_path / "nothing") is None


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "no space left"), (errno.EACCES, "cannot be written")])
def test_errors_of_the_disk_say_what_to_do(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(StoreError, match=words) as caught, disk_errors(tmp_path):
        raise OSError(number, "as the system says it")
    assert caught.value.hint


def test_an_error_about_another_file_is_not_the_stores(tmp_path: Path) -> None:
    entry = tmp_path / "home" / "store" / "prior-mine" / "abc"
    with pytest.raises(PermissionError), disk_errors(entry):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "photos" / "private.jpg"))
    for own in (entry / "parts" / "00000.parquet", entry.parent / ".x.tmp", tmp_path / "home"):
        with pytest.raises(StoreError, match="cannot be written"), disk_errors(entry):
            raise PermissionError(errno.EACCES, "Permission denied", str(own))
