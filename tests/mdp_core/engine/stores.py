"""Small stores and runs made by hand."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdp_core.engine.cache import Stored
from mdp_core.engine.keys import FORMAT, digest
from mdp_core.engine.store import Entry, Manifest, Store


def payload(kind: str, step: str, **more: Any) -> dict[str, Any]:
    return {
        "format": FORMAT, "kind": kind, "step": step, "plugin": {"name": "toy", "code": "toy", "version": 1},
        "settings": {}, "images": "some", "inputs": {}, **more,
    }  # fmt: skip


def begin(home: Path, content: Mapping[str, Any]) -> Entry:
    entry = Store(home).entry(content["kind"], content["step"], digest(content), content)
    entry.begin()
    return entry


def finish(entry: Entry, parts: Mapping[str, bytes] | None = None, **facts: Any) -> Entry:
    entry.parts.mkdir(exist_ok=True)
    for name, text in (parts or {"00000.parquet": b"part"}).items():
        (entry.parts / name).write_bytes(text)
        entry.stamp_part(name)
    entry.finish([f"parts/{name}" for name in (parts or {"00000.parquet": b""})], Manifest({}, **facts))
    return entry


def stored(home: Path, kind: str = "prior", step: str = "mine", *, age: float = 0.0, **more: Any) -> Stored:
    """A complete result; ``age`` in seconds."""
    facts = {name: more.pop(name) for name in ("seconds", "images", "notes") if name in more}
    size = more.pop("size", 4)
    found = Stored(finish(begin(home, payload(kind, step, **more)), {"00000.parquet": b"x" * size}, **facts))
    if age:
        when = (found.entry.folder / "manifest.json").stat().st_mtime - age
        for file in found.entry.folder.rglob("*"):
            os.utime(file, (when, when))
    return Stored(found.entry)


def run(home: Path, name: str, *used: Stored, status: str = "finished", planned: tuple[Stored, ...] = (), **more: Any) -> Path:
    """A run that used some results, and planned others."""
    folder = home / "runs" / name
    folder.mkdir(parents=True)
    steps = [
        {"id": s.place, "stage": "x", "kind": s.group.split("-")[0], "step": s.group.split("-", 1)[1], "plugin": "toy",
         "role": "train", "key": s.key, "status": "done", "seconds": 1.0}
        for s in used
    ]  # fmt: skip
    content = {
        "id": name, "name": "toy", "seed": 0, "recipe": "toy.yaml", "overrides": [], "resolved": {}, "environment": {},
        "status": status, "started": "2026-01-01T00:00:00+00:00", "seconds": 3.0, "steps": steps,
        "planned": [s.place for s in (*used, *planned)], "places": {s.place: s.place for s in (*used, *planned)},
        "host": "elsewhere", "process": 1, **more,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(content))
    return folder
