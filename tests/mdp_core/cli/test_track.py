"""``mdp track`` with a tracker in a single file: the command line knows none by name."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., subprocess.CompletedProcess[str]]

TRACKER = '''\
"""Tracks runs in a file beside them; the file `down` in the home stands for a server that does not answer."""
from mdp_core.api import MdpError, hookimpl
from mdp_core.plugins.hookspecs import Tracking

@hookimpl
def mdp_register(registry):
    pass

@hookimpl
def mdp_run_tracking(folder, home):
    sent = folder / "sent"
    if not sent.exists():
        return Tracking("notebook", "", "untracked")
    text = sent.read_text()
    state = {"": "incomplete", "busy": "sending"}.get(text, "complete")
    return Tracking("notebook", "page 1", state, text, "nothing there yet" if not text else "")

@hookimpl
def mdp_sync_run(folder, home, force):
    if (home / "down").exists():
        raise MdpError(f"{folder.name}: the notebook is shut", hint="open it")
    (folder / "sent").write_text("anew" if force else "all of it")
    return mdp_run_tracking(folder, home)
'''
REGISTERS = "    registry.add('observer', 'notebook', factory=':Observer')"


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options that load the tracker, and it alone."""
    monkeypatch.setenv("MDP_PLUGINS", "mdp_datasets")
    (tmp_path / "registry.yaml").write_text("observers: []\n")
    (tmp_path / "notebook.py").write_text(TRACKER.replace("    pass", REGISTERS))
    return ["--plugin", "notebook.py"]


def make_run(home: Path, name: str, sent: str | None) -> Path:
    folder = home / "runs" / name
    folder.mkdir(parents=True)
    content = {
        "name": "x", "seed": 0, "recipe": "x.yaml", "overrides": [], "resolved": {}, "environment": {}, "status": "finished",
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(content))
    if sent is not None:
        (folder / "sent").write_text(sent)
    return folder


def test_all_that_is_incomplete_is_sent(mdp: Call, tmp_path: Path, tracker: list[str]) -> None:
    home = tmp_path / ".mdp"
    half, whole, none = make_run(home, "1-half", ""), make_run(home, "2-whole", "old"), make_run(home, "3-none", None)
    done = mdp("track", "sync", *tracker)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1-half: complete at page 1\n  all of it\n"
    assert (half / "sent").read_text() == "all of it"
    assert (whole / "sent").read_text() == "old"
    assert not (none / "sent").exists(), "nobody asked for it"
    assert mdp("track", "sync", *tracker).stdout == "nothing to send\n"
    (half / "sent").write_text("busy")
    assert mdp("track", "sync", *tracker).stdout == "nothing to send; 1 runs are being sent right now\n"


def test_named_runs_are_sent(mdp: Call, tmp_path: Path, tracker: list[str]) -> None:
    home = tmp_path / "h"
    first, last = make_run(home, "1-a", None), make_run(home, "2-b", "old")
    assert mdp("track", "sync", "last", "a", *tracker, "--home", "h").returncode == 0
    assert (first / "sent").read_text() == (last / "sent").read_text() == "all of it"
    assert mdp("track", "sync", "--force", "a", *tracker, "--home", "h").stdout == "1-a: complete at page 1\n  anew\n"


def test_the_others_are_sent_though_one_fails(mdp: Call, tmp_path: Path, tracker: list[str]) -> None:
    home = tmp_path / ".mdp"
    make_run(home, "1-a", "")
    make_run(home, "2-b", "")
    (home / "down").touch()
    done = mdp("track", "sync", *tracker)
    assert done.returncode == 1
    assert done.stdout == "1-a: not sent\n2-b: not sent\n"
    assert done.stderr == "error: 1-a: the notebook is shut\n2-b: the notebook is shut\n  → open it\n"


def test_listing(mdp: Call, tmp_path: Path, tracker: list[str]) -> None:
    assert mdp("track", "ls", *tracker).stdout == "no runs\n"
    for name, sent in (("1-a", ""), ("2-b", "x"), ("3-c", None)):
        make_run(tmp_path / ".mdp", name, sent)
    table = mdp("track", "ls", *tracker).stdout.splitlines()
    assert [line.split()[:3] for line in table[1:4]] == [
        ["1-a", "finished", "incomplete"],
        ["2-b", "finished", "complete"],
        ["3-c", "finished", "untracked"],
    ]
    assert "nothing there yet" in table[1]
    assert table[-1] == "`mdp track sync` sends the rest"
    rows = json.loads(mdp("track", "ls", "--json", *tracker).stdout)
    assert rows[0] == {
        "run": "1-a", "status": "finished", "tracker": "notebook", "place": "page 1", "state": "incomplete", "detail": "",
        "problem": "nothing there yet",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sync", "nope"], "there are no runs in"),
        (["sync", "--force"], "--force sends runs anew, and none is named"),
        (["sync", "--plugin", "missing.py"], "no such plugin file"),
    ],
)
def test_mistakes(mdp: Call, arguments: list[str], message: str, tracker: list[str]) -> None:
    done = mdp("track", *arguments, *tracker)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_neither_torch_nor_mlflow_is_imported_to_list(mdp: Call, tmp_path: Path) -> None:
    make_run(tmp_path / ".mdp", "1-a", None)
    done = mdp("track", "ls", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert not imported & {"torch", "mlflow"}
    assert "mdp_mlflow.sync" in imported
